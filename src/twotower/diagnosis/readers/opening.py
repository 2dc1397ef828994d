"""Text tables as other programs write them: packed, in UTF-16, with semicolons, tabs or decimal commas."""

from __future__ import annotations

import csv
import gzip
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HEAD = 1 << 16
"""Characters by which the separator is told."""
_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?", re.ASCII)


@contextmanager
def opened(path: Path) -> Iterator[io.TextIOWrapper]:
    """Open a text file for reading, by its first bytes: packed with gzip or not, in UTF-16 or UTF-8."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    with gzip.open(path) if packed else path.open("rb") as raw:
        is_wide = raw.read(2) in (b"\xff\xfe", b"\xfe\xff")
        raw.seek(0)
        with io.TextIOWrapper(raw, encoding="utf-16" if is_wide else "utf-8-sig", newline="") as text:
            yield text


def separator_of(file: io.TextIOWrapper, suffix: str) -> str:
    """Return the separator of cells: a tab in a ``.tsv``, else the comma, semicolon or tab that its lines have.

    A semicolon or a tab it is where it cuts the first two lines into equally many cells, two at least, and most of the
    second line's cells are numbers, with a point or a comma. The file is then at its start again.
    """
    if suffix == ".tsv":
        return "\t"
    head = file.read(_HEAD)
    file.seek(0)
    for separator in (";", "\t"):
        lines = [cells for cells in csv.reader(io.StringIO(head), delimiter=separator) if cells][:2]
        if len(lines) == 2 and len(lines[0]) == len(lines[1]) > 1:
            numbers = sum(is_number(with_point(cell)) for cell in lines[1])
            if 2 * numbers >= len(lines[1]):
                return separator
    return ","


def with_point(cell: str) -> str:
    """Return a number with a decimal comma as one with a point, and any other cell as it is.

    Examples:
        >>> [with_point(cell) for cell in ("0,25", "-1,5e-3", "1,234,567", "a,1", "2")]
        ['0.25', '-1.5e-3', '1,234,567', 'a,1', '2']
    """
    return cell.replace(",", ".") if _COMMA.fullmatch(cell.strip()) else cell


def is_number(cell: str) -> bool:
    """Return whether a cell is a number."""
    try:
        float(cell)
    except ValueError:
        return False
    return True
