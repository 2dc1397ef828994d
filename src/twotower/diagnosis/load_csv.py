"""Vectors from CSV and TSV, with the column and the line in every error."""

from __future__ import annotations

import csv
import json
from array import array
from pathlib import Path

import numpy as np

from twotower.core.errors import InputError, closest
from twotower.diagnosis.load import ID_NAMES, POPULARITY_NAMES, TITLE_NAMES, VECTOR_NAMES, Table


def read_csv(path: Path, column: str | None = None) -> Table:
    """Read one vector a line: a number a column, or a list of numbers ("[0.1, 0.2]") in one column.

    The first line names the columns when one of its cells is not a number. Columns with a name of an id, a title or
    a popularity are taken for that; every other cell must be a number.

    Raises:
        InputError: naming column and line, if a cell is not a number, or lines differ in length.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return _read(path, csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ","), column)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a readable text table ({error})") from None


def _read(path: Path, lines: csv._reader, column: str | None) -> Table:  # type: ignore[name-defined]
    first = next(lines, None)
    if not first:
        raise InputError(f"{path}: the file is empty")
    named = not all(_is_number(cell) for cell in first)
    names = first if named else [str(place + 1) for place in range(len(first))]
    id_at, title_at, popularity_at = (
        next((place for place, name in enumerate(names) if name.strip().lower() in known), None) if named else None
        for known in (ID_NAMES, TITLE_NAMES, POPULARITY_NAMES)
    )
    if column is not None and column not in names:
        raise InputError(f"{path}: no column '{column}'; {closest(column, names)}")
    listed = names.index(column) if column is not None else None
    if listed is None and named:
        listed = next((place for place, name in enumerate(names) if name.strip().lower() in VECTOR_NAMES), None)
    places = [place for place in range(len(names)) if place not in (id_at, title_at, popularity_at)]
    values, width, count = array("d"), len(places), 0
    ids: list[str] = []
    titles: list[str] = []
    popularity = array("d")
    for cells in [first] if not named else []:
        values.extend(map(float, cells))
        count += 1
    for cells in lines:
        if not cells:
            continue
        line = lines.line_num
        if len(cells) != len(names):
            raise InputError(f"{path}: line {line} has {len(cells)} cells, the first line has {len(names)}")
        if listed is not None:
            numbers = _list(path, line, names[listed], cells[listed])
            width = len(numbers) if not count else width
            if len(numbers) != width:
                raise InputError(
                    f"{path}: line {line}, column '{names[listed]}' holds {len(numbers)} numbers, earlier lines {width}"
                )
            values.extend(numbers)
        else:
            _extend(values, path, line, names, cells, places)
        count += 1
        if id_at is not None:
            ids.append(cells[id_at])
        if title_at is not None:
            titles.append(cells[title_at])
        if popularity_at is not None:
            _extend(popularity, path, line, names, cells, [popularity_at])
    if not count:
        raise InputError(f"{path}: has column names but no line of numbers")
    return Table(
        np.frombuffer(values, dtype=np.float64).reshape(count, width),
        ids or None,
        titles or None,
        np.frombuffer(popularity, dtype=np.float64) if popularity_at is not None else None,
    )


def _extend(values: array[float], path: Path, line: int, names: list[str], cells: list[str], places: list[int]) -> None:
    try:
        values.extend([float(cells[place]) for place in places])
    except ValueError:
        place = next(place for place in places if not _is_number(cells[place]))
        cell = cells[place] if len(cells[place]) <= 30 else cells[place][:30] + "…"
        raise InputError(f"{path}: line {line}, column '{names[place]}' holds '{cell}', not a number") from None


def _list(path: Path, line: int, name: str, cell: str) -> list[float]:
    try:
        numbers = json.loads(cell)
        return [float(number) for number in numbers]
    except (ValueError, TypeError):
        shown = cell if len(cell) <= 30 else cell[:30] + "…"
        raise InputError(
            f"{path}: line {line}, column '{name}' holds '{shown}', not a list of numbers like [0.1, 0.2]"
        ) from None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
