"""Vectors from JSON lines: an object a line, with a list of numbers or with numbers that together are the vector."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from twotower.core.errors import InputError, closest, shown
from twotower.diagnosis.columns import roles_of
from twotower.diagnosis.readers.arrays import choose
from twotower.diagnosis.readers.opening import opened
from twotower.diagnosis.readers.text import Cell, read_lists, read_numbers
from twotower.diagnosis.table import VECTOR_NAMES, Table


def read_json_lines(path: Path, column: str | None = None) -> Table:
    """Read the key ``column``, or the only one with a list of numbers, or all keys with a number that are coordinates.

    Values are taken as cells of a text table are, but a text is no coordinate, whatever it holds; only under a name of
    vectors, as "vector", it is read as a list. A key counts even where it first appears late in the file.

    Raises:
        InputError: naming line and key, if a line is no object, has a key twice or lacks a number, or lists differ in
            length.
    """
    with opened(path) as file:
        firsts = _firsts(path, file)
        names = list(firsts)
        listed = _listed(path, firsts, column)
        if listed is not None:
            return read_lists(path, _cells(path, file, names, listed), names, names.index(listed))
        taken = {names[place] for place in roles_of(names).taken}
        other = {name: _kind(value) for name, value in firsts.items() if name not in taken and not _is_number(value)}
        names = [name for name in names if name not in other]
        if not set(names) - taken:
            raise InputError(f"{path}: no key holds a list of numbers or a number; it has {', '.join(firsts)}"[:300])
        table, key = read_numbers(path, _cells(path, file, names), names, named=True)
        if key is not None:  # an id keeps the digits that a float would lose
            table = table._replace(ids=[str(cells[key]) for _, cells in _cells(path, file, names)])
    account = table.account
    return table._replace(account=replace(account, left_out={**account.left_out, **other}))


def _objects(path: Path, file: TextIOWrapper) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every object of a file, from its start, with the number of its line."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            again = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise InputError(
                f"{path}: line {line:,} has the key {shown(again)} twice; an object has each key once: rename one or "
                "drop it"
            )
        return found

    file.seek(0)
    for line, text in enumerate(file, start=1):
        if not text.strip():
            continue
        try:
            found = json.loads(text, object_pairs_hook=once)
        except InputError:
            raise
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise InputError(
                f"{path}: line {line:,} is no JSON object; write one object a line, as \"jq -c '.[]'\" does for a list"
            )
        yield line, found


def _firsts(path: Path, file: TextIOWrapper) -> dict[str, Any]:
    """Every key of the file with its first value that is not missing."""
    firsts: dict[str, Any] = {}
    for _, found in _objects(path, file):
        for key, value in found.items():
            if firsts.get(key) is None:
                firsts[key] = value
    if not firsts:
        raise InputError(f"{path}: the file is empty")
    return firsts


def _listed(path: Path, firsts: dict[str, Any], column: str | None) -> str | None:
    """The key of the lists, where there are lists."""
    if column is not None:
        if column not in firsts:
            raise InputError(f"{path}: no key {shown(column)}; {closest(column, firsts)}")
        return column
    lists = {name: value for name, value in firsts.items() if isinstance(value, list)}
    numbers: dict[str, Sequence[int]] = {
        name: (1, len(value)) for name, value in lists.items() if all(map(_is_number, value))
    }
    if numbers:
        return choose(path, numbers, None, "key")
    texts = (name for name, value in firsts.items() if isinstance(value, str) and name.strip().lower() in VECTOR_NAMES)
    return next(texts, None)


def _cells(
    path: Path, file: TextIOWrapper, names: list[str], listed: str | None = None
) -> Iterator[tuple[int, list[Cell]]]:
    """Every object as a row of cells; the list of the vector stays one."""
    for line, found in _objects(path, file):
        values = ((name, found.get(name)) for name in names)
        yield line, [value if name == listed and isinstance(value, list) else _text(value) for name, value in values]


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _kind(value: Any) -> str:
    """What a value that is no number is, in the words of the account."""
    if value is None:
        return "empty"
    return {str: "text", bool: "true or false", list: "a list", dict: "an object"}[type(value)]
