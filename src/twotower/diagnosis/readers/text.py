"""Vectors from CSV and TSV, with the column and the line in every error."""

from __future__ import annotations

import csv
import json
import re
from array import array
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from twotower.core.errors import InputError, closest, shown
from twotower.diagnosis.columns import LONG, account_of, coordinates, roles_of, shown_name, with_long_key, without_keys
from twotower.diagnosis.readers.opening import is_number, opened, separator_of, with_point
from twotower.diagnosis.table import VECTOR_NAMES, Account, Table

_LONG = re.compile(rf"[+-]?\d{{{LONG},}}", re.ASCII)
_COUNTED = 8
"""Columns from which on a first line 1, 2, 3, … is taken for column names and not for a vector."""
_FRACTION = re.compile(r"-?(0|[1-9]\d*)\.0+", re.ASCII)
_WRAPPED = re.compile(r"np\.float\d+\(([^()]*)\)")
"""A number as NumPy writes it in a list of Python."""


Cell = Any
"""A text; of JSON lines the list that holds the vector, too."""


def read_text(path: Path, column: str | None = None) -> Table:
    """Read one vector a line: a number a column, or a list of numbers ("[0.1, 0.2]", "0.1 0.2") in one column.

    Cells stand between commas, semicolons (numbers may have decimal commas then) or tabs.

    The first line names the columns when its cells are not numbers, or when its numbers count 0, 1, 2, … or 1, 2, 3, …
    `twotower.diagnosis.columns` tells keys from coordinates. A column of which no cell is a number is left out; every
    other cell must be a number.

    Raises:
        InputError: naming column and line, if a cell is not a number, or lines differ in length.
    """
    with opened(path) as file:
        separator = separator_of(file, path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix.lower())
        lines = csv.reader(file, delimiter=separator)
        first = next(lines, None)
        if not first:
            raise InputError(f"{path}: the file is empty")
        if separator == ";":
            first = [with_point(cell) for cell in first]
        named, notice = _is_header(first)
        names = first if named else [str(place + 1) for place in range(len(first))]
        listed = _listed(path, names, column, named)
        cells = _cells(path, lines, first, named, separator)
        if listed is not None:
            return read_lists(path, cells, names, listed)
        table, key = read_numbers(path, cells, names, named=named, notice=notice)
        if key is None:
            return table
        file.seek(0)  # an id keeps the letters that it has: 007, and the digits that a float would lose
        again = csv.reader(file, delimiter=separator)
        next(again)
        ids = [cells[key].strip() for _, cells in _cells(path, again, first, named, separator)]
        return table._replace(ids=without_fractions(ids))


def _is_header(first: list[str]) -> tuple[bool, str | None]:
    """Whether the first line names the columns, with a notice where that is a rule and not plain to see."""
    numbers = [cell for cell in first if is_number(cell)]
    if len(numbers) == len(first):
        cells = [cell.strip() for cell in first]
        for start, least in ((0, 2), (1, _COUNTED)):
            if len(cells) >= least and cells == [str(number) for number in range(start, start + len(cells))]:
                return (
                    True,
                    f"the first line counts {start}, {start + 1}, {start + 2}, …, so it was taken for column names",
                )
        return False, None
    if any(not cell.strip().lstrip("-").isdigit() for cell in numbers):
        return False, "the first line holds fractions, so it was taken for a row and not for column names"
    return True, None


def _listed(path: Path, names: list[str], column: str | None, named: bool) -> int | None:
    if column is not None:
        if column not in names:
            raise InputError(f"{path}: no column {shown(column)}; {closest(column, names)}")
        return names.index(column)
    places = (place for place, name in enumerate(names) if name.strip().lower() in VECTOR_NAMES)
    return next(places, None) if named else None


def _cells(
    path: Path, lines: Iterator[list[str]], first: list[str], named: bool, separator: str
) -> Iterator[tuple[int, list[str]]]:
    """Every row that holds anything, with the number of its line; beside semicolons, decimal commas are points."""
    if not named:
        yield 1, first
    for cells in lines:
        if not cells:
            continue
        line = lines.line_num  # type: ignore[attr-defined]
        if len(cells) != len(first):
            raise InputError(f"{path}: line {line} has {len(cells)} cells, the first line has {len(first)}")
        yield line, [with_point(cell) for cell in cells] if separator == ";" else cells


def read_lists(path: Path, rows: Iterator[tuple[int, list[Cell]]], names: list[str], listed: int) -> Table:
    """Read the vectors from the column at ``listed``, as lists or as their text; ``rows`` come with their lines.

    Raises:
        InputError: naming column and line, if a cell is no list of numbers, or lists differ in length.
    """
    roles = roles_of(names)
    beside = _Beside(path, names, roles.id, roles.title, roles.popularity)
    values, width, count = array("d"), 0, 0
    for line, cells in rows:
        numbers = _list(path, line, names[listed], cells[listed])
        width = len(numbers) if not count else width
        if len(numbers) != width:
            raise InputError(
                f"{path}: line {line}, column {shown(names[listed])} holds {len(numbers)} numbers, "
                f"earlier lines {width}"
            )
        values.extend(numbers)
        beside.add(line, cells)
        count += 1
    account = replace(account_of(names, roles), vector=(shown_name(names[listed], listed),))
    left = {
        shown_name(name, place): "stands beside the lists"
        for place, name in enumerate(names)
        if place != listed and place not in roles.taken
    }
    account = replace(account, left_out={**account.left_out, **left})
    account, matrix, ids = without_keys(account, np.frombuffer(values, dtype=np.float64).reshape(count, width))
    beside.ids = beside.ids or ids or []
    return beside.table(matrix, matrix.shape[1], count, account)


def read_numbers(
    path: Path, rows: Iterator[tuple[int, list[str]]], names: list[str], *, named: bool, notice: str | None = None
) -> tuple[Table, int | None]:
    """Return the vectors from columns of numbers, and the place of the column that its values show to be the id.

    Raises:
        InputError: naming column and line, if a cell is not a number.
    """
    start = next(rows, None)
    if start is None:
        raise InputError(f"{path}: has column names but no line of numbers")
    line, cells = start
    called = [name if name.strip() or cells[place].strip() else "empty" for place, name in enumerate(names)]
    roles = roles_of(called if named else [str(place) for place in range(len(names))])  # no name, no cell: no key
    free = [place for place in range(len(names)) if place not in roles.taken]
    words = [place for place in free if not is_number(cells[place])]
    long = [place for place in free if place not in words and _LONG.fullmatch(cells[place].strip())]
    places = [place for place in free if place not in words and place not in long]
    if words and len(places) + len(long) < 2:
        raise _not_a_number(path, line, names[words[0]], cells[words[0]])
    told_words = [place for place in words if cells[place].strip()]
    id_at = told_words[0] if not named and told_words else roles.id  # a row that begins with a word: "king 0.1 0.2"
    beside = _Beside(path, names, id_at, roles.title, roles.popularity)
    values, count, told = array("d"), 0, (line, cells)
    while start is not None:
        line, cells = start
        try:
            values.extend([float(cells[place]) for place in places])
        except ValueError:
            place = next(place for place in places if not is_number(cells[place]))
            raise _not_a_number(path, line, names[place], cells[place]) from None
        for place in words:
            if is_number(cells[place]):
                raise _not_a_number(path, told[0], names[place], told[1][place])
        beside.add(line, cells)
        count += 1
        start = next(rows, None)
    shown = [shown_name(name, place) if named else f"column {place + 1}" for place, name in enumerate(names)]
    account = account_of(names, roles) if named else Account(id=None if id_at is None else shown[id_at])
    left = {shown[place]: "text" if place in told_words else "empty" for place in words if place != id_at}
    left |= {shown[place]: "whole numbers too long for a coordinate" for place in long}
    account = replace(account, left_out={**account.left_out, **left}, notices=() if notice is None else (notice,))
    if not places:
        raise InputError(f"{path}: holds whole numbers of {LONG} digits and more, and no coordinates")
    key = None
    if long and id_at is None:
        account, _ = with_long_key(account, shown[key := long[0]])
    matrix = np.frombuffer(values, dtype=np.float64).reshape(count, len(places))
    account, matrix, ids = coordinates(account, [shown[place] for place in places], matrix, named=named)
    if ids is not None:
        key = shown.index(str(account.id))
    return beside.table(matrix, matrix.shape[1], count, account), key


class _Beside:
    """Ids, titles and popularity, gathered row by row."""

    def __init__(
        self, path: Path, names: list[str], id_at: int | None, title_at: int | None, popularity_at: int | None
    ) -> None:
        self._path = path
        self._names = names
        self._at = id_at, title_at, popularity_at
        self.ids: list[str] = []
        self._titles: list[str] = []
        self._popularity = array("d")

    def add(self, line: int, cells: list[Cell]) -> None:
        """Take the cells of one row."""
        id_at, title_at, popularity_at = self._at
        if id_at is not None:
            self.ids.append(str(cells[id_at]))
        if title_at is not None:
            self._titles.append(str(cells[title_at]))
        if popularity_at is not None:
            cell = str(cells[popularity_at])
            if not is_number(cell):
                raise _not_a_number(self._path, line, self._names[popularity_at], cell)
            self._popularity.append(float(cell))

    def table(self, values: object, width: int, count: int, account: Account) -> Table:
        """Give everything, with the vectors as [rows, dimensions]."""
        if not count:
            raise InputError(f"{self._path}: has column names but no line of numbers")
        vectors = np.asarray(values, dtype=np.float64).reshape(count, width)
        popularity = np.frombuffer(self._popularity, dtype=np.float64) if self._at[2] is not None else None
        return Table(vectors, without_fractions(self.ids) or None, self._titles or None, popularity, account)


def without_fractions(ids: list[str]) -> list[str]:
    """Return ids without a fraction of zeros where each has one: tables with gaps make floats of whole numbers.

    Examples:
        >>> without_fractions(["1.0", "20.00"]), without_fractions(["1.0", "1.5"]), without_fractions(["01.0"])
        (['1', '20'], ['1.0', '1.5'], ['01.0'])
    """
    return [id.partition(".")[0] for id in ids] if all(map(_FRACTION.fullmatch, ids)) else ids


def _not_a_number(path: Path, line: int, name: str, cell: str) -> InputError:
    return InputError(f"{path}: line {line}, column {shown(name)} holds {shown(cell, 33)}, not a number")


def _list(path: Path, line: int, name: str, cell: Cell) -> list[float]:
    try:
        numbers = json.loads(cell) if isinstance(cell, str) else cell
        if isinstance(numbers, list) and all(type(number) in (int, float) for number in numbers):
            return [float(number) for number in numbers]
    except (ValueError, OverflowError, RecursionError):
        pass
    text = _WRAPPED.sub(r"\1", str(cell)).strip()
    inner = text[1:-1] if (text[:1], text[-1:]) in (("[", "]"), ("(", ")")) else text
    words = (
        [with_point(word) for word in inner.split(";")] if ";" in inner else inner.split("," if "," in inner else None)
    )
    if len(words) > 1 and all(map(is_number, words)):
        return [float(word) for word in words]
    raise InputError(
        f"{path}: line {line}, column {shown(name)} holds {shown(cell, 33)}, not a list of numbers like [0.1, 0.2]"
    )
