"""Separators of text tables: the cells of a line, and the separator that a file has where it is not the one set."""

from __future__ import annotations

import csv
from pathlib import Path

SEPARATORS = ("\t", "::", ",", ";", "|")
"""Those that are looked for, the surest first."""

_LINES = 20
_LONGEST = 1 << 16
"""Bytes of a line that are looked at."""


def cells_of_line(line: str, separator: str, quote: str, escape: str = "") -> list[str]:
    """Return the cells of one line."""
    if quote and len(separator) == 1:
        try:
            twice = escape in ("", quote)
            before = None if twice else escape
            cells = csv.reader([line], delimiter=separator, quotechar=quote, doublequote=twice, escapechar=before)
            return next(cells, [])
        except csv.Error:  # a cell beyond what that reader takes
            return line.split(separator)
    return line.split(separator)


def other_separator(path: Path, separator: str, quote: str, columns: int = 0, escape: str = "") -> str:
    """Return the separator that cuts the first lines of a file evenly where the one that is set does not; else ''.

    Args:
        path: of the file, in UTF-8.
        separator: the one that is set.
        quote: of cells.
        columns: that there should be; 0: as many as the first line has, but more than the one set gives.
        escape: the sign before a quote inside a quoted cell; empty: it is written twice.
    """
    with path.open("rb") as file:
        heads = [file.readline(_LONGEST) for _ in range(_LINES)]
    texts = [head.decode("utf-8-sig", errors="replace").rstrip("\r\n") for head in heads]
    lines = [text for text in texts if text]
    if not lines:
        return ""

    def counts(sign: str) -> set[int]:
        return {len(cells_of_line(line, sign, quote, escape)) for line in lines}

    now = counts(separator)
    if (columns and columns in now) or (not columns and len(now) == 1 < max(now)):
        return ""
    for sign in SEPARATORS:
        found = counts(sign)
        if sign != separator and len(found) == 1 and max(found) > 1 and columns in (0, *found):
            return sign
    return ""
