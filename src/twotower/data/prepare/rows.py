"""Rows of a text file by line: quoted cells may span lines, and a stray quote may swallow some."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_CHANCE = 4
"""Separators that must stand where they would in rows of their own before lines in a quoted cell count as swallowed."""


class Row(NamedTuple):
    """Hold the lines of one row."""

    first: int
    """The first line is 1."""
    lines: int
    filled: int
    """Lines that are not blank."""
    swallowed: bool
    """Whether each of its lines looks like a row of its own, so that the quote that joins them is a stray one."""


def count_lines(path: Path) -> tuple[int, int]:
    """Return how many lines a file has, and how many of them are blank."""
    lines = blank = 0
    with path.open("rb") as file:
        for line in file:
            lines += 1
            blank += line in (b"\n", b"\r\n")
    return lines, blank


def rows_of(path: Path, separator: str = "", quote: str = "", columns: int = 0, escape: str = "") -> Iterator[Row]:
    """Yield the rows of a file, a header among them, blank lines between them left out."""
    sign, parts, before = quote.encode(), separator.encode(), escape.encode()
    first, filled, alike, is_open = 0, 0, True, False
    number = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not is_open and not line.strip(b"\r\n"):
                continue
            first = first or number
            filled += line not in (b"\n", b"\r\n")
            if sign and (is_open or sign in line):
                alike = alike and line.count(parts) == columns - 1
                is_open = _is_open(line, is_open, parts, sign, before)
            if not is_open:
                yield _row(first, number, filled, alike, columns)
                first, filled, alike = 0, 0, True
    if first:
        yield _row(first, number, filled, alike, columns)


def _row(first: int, last: int, filled: int, alike: bool, columns: int) -> Row:
    return Row(first, last - first + 1, filled, alike and (columns - 1) * (last - first) >= _CHANCE)


def _is_open(line: bytes, is_open: bool, separator: bytes, quote: bytes, escape: bytes) -> bool:
    """Whether a quoted cell is open at the end of a line. Not at the start of a cell, a quote is a letter."""
    at = 0
    while True:
        if is_open or line.startswith(quote, at):
            at += 0 if is_open else len(quote)
            is_open = True
            close = line.find(quote, at)
            if close < 0:
                return True
            if escape not in (b"", quote) and 0 <= (signs := line.find(escape, at)) < close:
                at = signs + len(escape) + 1  # whatever stands behind it is a letter
                continue
            at = close + len(quote)
            if escape in (b"", quote) and line.startswith(quote, at):
                at += len(quote)
                continue
            is_open = False
        at = line.find(separator, at)
        if at < 0:
            return False
        at += len(separator)
