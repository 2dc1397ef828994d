"""Errors that a user can mend, worded in one line: what, where, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Report bad input or wrong use.

    The command line prints the text as one line and exits with status 2.
    """


def shown(value: object, width: int = 80) -> str:
    """Return a bad value for a message: quoted, on one line without control characters, cut to ``width``.

    Examples:
        >>> shown("a\\x00b"), shown("x" * 99, 8)
        ("'ab'", "'xxxxxx…")
    """
    text = str(value) if not isinstance(value, str) else f"'{value}'"
    text = "".join(sign if sign.isprintable() else " " if sign.isspace() else "" for sign in text)
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
    match = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    if match:
        return f"did you mean '{lowered[match[0]]}'?"
    if not words:
        return "there are none"
    shown = words[:20]
    return "known: " + ", ".join(shown) + ("" if len(words) <= 20 else f" and {len(words) - 20} more")


def unknown_name(what: str, name: object, known: Iterable[str], where: str = "") -> InputError:
    """Return the error for an unknown name, with the closest known one.

    Examples:
        >>> str(unknown_name("model", "sasrek", ["sasrec", "ease"], "run.toml"))
        "run.toml: unknown model 'sasrek'; did you mean 'sasrec'?"
    """
    place = f"{where}: " if where else ""
    return InputError(f"{place}unknown {what} {shown(name)}; {closest(str(name)[:80], known)}")
