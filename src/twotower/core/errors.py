"""Errors that a user can mend, worded in one line: what, where, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from twotower.core.terminal import visible

LONGEST = 480
"""Characters of a message: whatever a value's length, the line stays one that can be read."""


class InputError(ValueError):
    """Report bad input or wrong use.

    The command line prints the text as one line and exits with status 2.

    Control characters become their escapes, and a text of over `LONGEST` characters loses its middle: what went wrong
    stands first, what to do last.
    """

    def __init__(self, text: str = "") -> None:
        super().__init__(cut(visible(text, lines=True)))


def cut(text: str, longest: int = LONGEST) -> str:
    """Return a text of at most ``longest`` characters: the middle of a longer one is left out.

    Examples:
        >>> cut("a" * 50 + "end", 9)
        'aaaaa…end'
    """
    tail = longest // 3
    return text if len(text) <= longest else text[: longest - tail - 1] + "…" + text[-tail:]


class UnavailableError(InputError):
    """Report that another machine does not answer: a service says 503 then, since the request itself was right."""


class SharedError(InputError):
    """End a process silently with the status of an error that another process of the training reports.

    Args:
        text: what the other one tells.
        status: of the exit.
    """

    def __init__(self, text: str, *, status: int = 2) -> None:
        super().__init__(text)
        self.status = status


def shown(value: object, width: int = 80) -> str:
    """Return a bad value for a message: quoted, on one line without control characters, cut to ``width``.

    Examples:
        >>> shown("a\\x00b"), shown("x" * 99, 8)
        ("'ab'", "'xxxxxx…")
    """
    try:
        text = str(value) if not isinstance(value, str) else f"'{value}'"
    except (ValueError, RecursionError):  # a number of thousands of digits, or a value that holds itself
        text = f"a value of type {type(value).__name__} that is too large to show"
    text = "".join(sign if sign.isprintable() else " " if sign.isspace() else "" for sign in text[: 20 * width])
    return text if len(text) <= width else text[: width - 1] + "…"


def closest(name: str, known: Iterable[str]) -> str:
    """Return a hint that names the closest known word, or lists them when none is close.

    Examples:
        >>> closest("recal", ["recall", "ndcg"])
        "did you mean 'recall'?"
        >>> closest("zzz", ["recall", "ndcg"])
        'known: ndcg, recall'
    """
    words = sorted(set(known))
    lowered = {word.lower(): word for word in words}
    match = difflib.get_close_matches(name.lower()[:80], lowered, n=1, cutoff=0.6)
    if match:
        return f"did you mean '{_short(lowered[match[0]])}'?"
    if not words:
        return "there are none"
    first = words[:20]
    return "known: " + ", ".join(map(_short, first)) + ("" if len(words) <= 20 else f" and {len(words) - 20} more")


def _short(name: str) -> str:
    return shown(name)[1:].removesuffix("'")


def unknown_name(what: str, name: object, known: Iterable[str], where: str = "") -> InputError:
    """Return the error for an unknown name, with the closest known one.

    Examples:
        >>> str(unknown_name("model", "sasrek", ["sasrec", "ease"], "run.toml"))
        "run.toml: unknown model 'sasrek'; did you mean 'sasrec'?"
    """
    place = f"{where}: " if where else ""
    return InputError(f"{place}unknown {what} {shown(name)}; {closest(str(name)[:80], known)}")
