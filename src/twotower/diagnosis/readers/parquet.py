"""Vectors from Parquet: a column of lists, or numeric columns together."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twotower.core.errors import InputError, closest, shown
from twotower.diagnosis.columns import LONG, coordinates, roles_of, with_long_key, without_keys
from twotower.diagnosis.readers.arrays import choose, plain_id, values_beside
from twotower.diagnosis.table import Table

_NUMERIC = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "HUGEINT"} | {
    "FLOAT",
    "DOUBLE",
    "DECIMAL",
}


def read_parquet(path: Path, column: str | None = None) -> Table:
    """Read the list column ``column``, or the only one, or all numeric columns that are coordinates.

    An index that pandas kept in the file is never a coordinate, whatever its name.
    """
    import duckdb

    with duckdb.connect() as connection:
        one_file = only_file(path)
        relation = connection.read_parquet(one_file, hive_partitioning=False)
        indexes = _pandas_indexes(connection, one_file)
        kinds = dict(zip(relation.columns, map(str, relation.types), strict=True))
        if column is not None and column not in kinds:
            raise InputError(f"{path}: no column {shown(column)}; {closest(column, kinds)}")
        lists = [name for name, kind in kinds.items() if "[" in kind and re.split(r"[\[(]", kind)[0] in _NUMERIC]
        lists = lists or [name for name, kind in kinds.items() if kind.endswith("]")]
        names = list(kinds)
        roles = roles_of(names, indexes)
        taken = {names[place] for place in roles.taken}
        by_lists = column is not None or bool(lists)
        long: dict[str, NDArray[Any]] = {}
        if by_lists:
            vector = [_only_list(path, relation, lists) if column is None else column]
            values = _list_column(path, relation, vector[0], kinds[vector[0]])
        else:
            vector = [name for name, kind in kinds.items() if name not in taken and kind.split("(")[0] in _NUMERIC]
            if not vector:
                raise InputError(f"{path}: holds neither a list column nor numeric columns; it holds {_shown(kinds)}")
            columns = relation.select(*map(_quoted, vector)).fetchnumpy()
            long = {name: columns[name] for name in vector if _is_long(columns[name])}
            vector = [name for name in vector if name not in long]
            if not vector:
                raise InputError(f"{path}: holds whole numbers of {LONG} digits and more, and no coordinates")
            values = np.stack([np.ma.filled(columns[name].astype(np.float64), np.nan) for name in vector], axis=1)
        wanted = [name for name in names if name in taken and name not in vector]
        found = relation.select(*map(_quoted, wanted)).fetchnumpy() if wanted else {}
    beside = {name: _with_gaps(path, name, part, names, roles.popularity) for name, part in found.items()}
    ids, titles, popularity, account = values_beside(beside, indexes)
    left = {
        name: "whole numbers too long for a coordinate"
        if name in long
        else kind.lower()
        if not by_lists
        else "stands beside the lists"
        for name, kind in kinds.items()
        if name not in vector and name not in taken
    }
    account = replace(account, vector=tuple(vector), left_out={**account.left_out, **left})
    if long and ids is None:
        account, key = with_long_key(account, next(iter(long)))
        ids = [plain_id(value) for value in np.ma.asarray(long[key]).tolist()]
    if not by_lists:
        account, values, keys = coordinates(account, vector, values)
        ids = ids if keys is None else [str(int(key)) for key in keys]
    else:
        account, values, numbers = without_keys(account, values)
        ids = numbers if ids is None else ids
    return Table(values, ids, titles, popularity, account)


def only_file(path: Path) -> str:
    """Return the path for DuckDB, to which brackets and stars in a name would be a pattern, and ~ the home folder."""
    return re.sub(r"([*?\[])", r"[\1]", str(path.absolute() if str(path).startswith("~") else path))


def _only_list(path: Path, relation: Any, lists: list[str]) -> str:
    """The list column that holds the vectors; the lengths of several are told."""
    lengths = ", ".join(f"max(len({_quoted(name)}))" for name in lists)
    rows, *longest = relation.aggregate(f"count(*), {lengths}").fetchall()[0]
    shapes: dict[str, Sequence[int]] = {name: (rows, length or 0) for name, length in zip(lists, longest, strict=True)}
    return choose(path, shapes, None, "column")


def _is_long(column: NDArray[Any]) -> bool:
    """Whether it holds whole numbers so long that floats would lose their digits: ids, and no coordinates."""
    return column.dtype.kind in "iu" and bool(len(column)) and max(int(column.max()), -int(column.min())) >= 2**53


def _with_gaps(path: Path, name: str, column: NDArray[Any], names: list[str], popularity: int | None) -> NDArray[Any]:
    """A column beside the vectors with None for what is missing; a gap in the popularity is refused."""
    if not np.ma.isMaskedArray(column) or not np.ma.is_masked(column):
        return np.asarray(column)
    if popularity is not None and name == names[popularity]:
        gaps = int(np.ma.getmaskarray(column).sum())
        raise InputError(f"{path}: column {shown(name)} is empty in {gaps} of {len(column)} rows; fill or drop them")
    values = column.data.astype(object)
    values[np.ma.getmaskarray(column)] = None
    return values


def _pandas_indexes(connection: Any, path: str) -> tuple[str, ...]:
    """Columns that pandas noted as the index of the frame."""
    found = connection.execute("SELECT value FROM parquet_kv_metadata(?) WHERE key = 'pandas'::BLOB", [path]).fetchall()
    try:
        noted = json.loads(found[0][0])["index_columns"] if found else []
        return tuple(name for name in noted if isinstance(name, str))
    except (ValueError, KeyError, TypeError, RecursionError):
        return ()  # a note of another program under that name says nothing of columns


def _list_column(path: Path, relation: Any, name: str, kind: str) -> NDArray[Any]:
    if not kind.endswith("]"):
        raise InputError(f"{path}: column {shown(name)} holds {kind}, not a list of numbers in each row")
    quoted = _quoted(name)
    count, known, shortest, longest = relation.aggregate(
        f"count(*), count({quoted}), min(len({quoted})), max(len({quoted}))"
    ).fetchall()[0]
    if count != known:
        raise InputError(f"{path}: column {shown(name)} is empty in {count - known} of {count} rows; fill or drop them")
    if shortest != longest:
        raise InputError(
            f"{path}: column {shown(name)} holds lists of {shortest} to {longest} numbers; all must be equal"
        )
    flat = relation.select(f"unnest({quoted}) AS value").fetchnumpy()["value"]
    if flat.dtype.kind not in "fiu":
        raise InputError(f"{path}: column {shown(name)} holds {kind}, not lists of numbers")
    values = np.ma.filled(flat.astype(np.float64), np.nan) if np.ma.isMaskedArray(flat) else flat
    return values.reshape(count, -1) if count else values.reshape(0, 0)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _shown(kinds: dict[str, str]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in list(kinds.items())[:8])
