"""Words of a filter expression, each with its place; nothing of an expression is ever executed."""

from __future__ import annotations

import re
from typing import NamedTuple

from twotower.core.conditions import Value
from twotower.core.errors import InputError, shown

MOST = 20_000
"""Characters of an expression."""
KEYWORDS = ("and", "or", "not", "in", "contains", "true", "false")

_WORDS = re.compile(
    r"""\s*(?:
    (?P<text>'(?:[^']|'')*')
  | (?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)(?![\w.])
  | (?P<quoted>"(?:[^"]|"")+")
  | (?P<name>[^\W\d]\w*(?:[.-]\w+)*)
  | (?P<sign><=|>=|<>|!=|=|<|>|\(|\)|,)
)""",
    re.VERBOSE,
)


class Word(NamedTuple):
    """Hold one word: its kind (text, number, name, keyword, sign or end), its value, and the place it starts at."""

    kind: str
    value: Value
    at: int


def words_of(expression: str) -> list[Word]:
    """Return the words of an expression, and an end.

    Raises:
        InputError: if it is too long, or a sign is of no word; names the place.
    """
    if len(expression) > MOST:
        raise InputError(
            f"the filter has {len(expression):,} characters, at most {MOST:,} are read; give a list of ids by 'only'"
        )
    found, at = [], 0
    end = len(expression.rstrip())
    while at < end:
        match = _WORDS.match(expression, at)
        if match is None or match.lastgroup is None:
            raise _unreadable(expression, at)
        kind, text, start = match.lastgroup, match[match.lastgroup], match.start(match.lastgroup)
        found.append(Word(*_read(kind, text), start))
        at = match.end()
    return [*found, Word("end", "", len(expression.rstrip()))]


def fault(at: int, text: str) -> InputError:
    """Return the error that says what is wrong at a place of an expression.

    Examples:
        >>> str(fault(7, "a value is missing"))
        'filter, character 8: a value is missing'
    """
    return InputError(f"filter, character {at + 1}: {text}")


def _read(kind: str, text: str) -> tuple[str, Value]:
    if kind == "text":
        return "text", text[1:-1].replace("''", "'")
    if kind == "quoted":
        return "name", text[1:-1].replace('""', '"')
    if kind == "number":
        return "number", int(text) if text.lstrip("+-").isdecimal() and len(text) < 19 else float(text)
    if kind == "name" and text.lower() in KEYWORDS:
        return "keyword", text.lower()
    return kind, text


def _unreadable(expression: str, at: int) -> InputError:
    at += len(expression[at:]) - len(expression[at:].lstrip())
    sign = expression[at]
    if sign in "'\"":
        return fault(at, f"the {'text' if sign == chr(39) else 'name'} that starts here has no end; close it by {sign}")
    word = re.match(r"\S+", expression[at:])
    what = shown(word[0] if word else sign, 30)
    return fault(at, f"{what} is no part of a filter; write such as genre = 'Comedy' and year >= 1990")
