"""Columns of items as filters read them: held in memory from their first use on."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from twotower.core.conditions import Column, Value, moment
from twotower.core.errors import closest, shown
from twotower.data.prepare.database import parquet, quoted
from twotower.serving.filters.words import fault

Mask: TypeAlias = NDArray[np.bool_]

WANTED = {
    "text": "a text in single quotes",
    "number": "a number",
    "flag": "true or false",
    "time": "a date in single quotes, such as '1999-12-31'",
}
"""What a column of each kind is compared with."""

_KINDS = (
    ("flag", ("BOOLEAN",)),
    ("text", ("VARCHAR", "UUID", "ENUM")),
    ("time", ("DATE", "TIMESTAMP")),
    ("number", ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER")),
    ("number", ("UBIGINT", "UHUGEINT", "FLOAT", "DOUBLE", "DECIMAL")),
)


@dataclass(frozen=True, eq=False)
class Values:
    """Hold a column: values that are there, and the row of each; a list has as many as it is long.

    Texts are numbered by their order, so that a comparison of texts is one of numbers.
    """

    kind: str
    is_list: bool
    rows: NDArray[np.int64]
    values: NDArray[Any]
    texts: list[str] | None


class ItemColumns:
    """Read the columns of a bundle's items from its vocabulary.

    Args:
        path: the Parquet file.
        num_rows: rows of items, the padding and the unknown item with them.
    """

    def __init__(self, path: Path, num_rows: int) -> None:
        self.path, self.num_rows = path, num_rows
        self._read: dict[str, Values] = {}
        self._lock = threading.Lock()

    @cached_property
    def kinds(self) -> dict[str, tuple[str, bool]]:
        """Return the columns that a filter reads: their kind (text, number, flag, time), and whether it is a list."""
        found = {}
        for name, type in self._types.items():
            is_list = type.endswith("[]")
            base = type.removesuffix("[]").partition("(")[0].partition(" ")[0].partition("_")[0]
            kind = next((kind for kind, types in _KINDS if base in types), "")
            if kind and name != "row":
                found[name] = kind, is_list
        return found

    def kind(self, column: Column) -> tuple[str, bool]:
        """Return the kind of a column, and whether it is a list.

        Raises:
            InputError: if there is no such column (names the closest), or no filter reads its type.
        """
        if column.name in self.kinds:
            return self.kinds[column.name]
        if column.name in self._types and column.name != "row":
            raise fault(column.at, f"column {shown(column.name, 40)} is {self._types[column.name]}: no filter reads it")
        hint = closest(column.name, self.kinds)
        raise fault(column.at, f"items have no column {shown(column.name, 40)}; {hint}")

    def values(self, name: str) -> Values:
        """Return a column that `kind` knows."""
        with self._lock:
            if name not in self._read:
                self._read[name] = self._load(name)
            return self._read[name]

    @cached_property
    def _types(self) -> dict[str, str]:
        import duckdb

        with duckdb.connect() as connection:
            question = f"SELECT column_name, column_type FROM (DESCRIBE SELECT * FROM {self._sql})"
            return dict(connection.execute(question).fetchall())

    @property
    def _sql(self) -> str:
        return parquet(self.path)

    def _load(self, name: str) -> Values:
        import duckdb

        kind, is_list = self.kinds[name]
        column = quoted(name)
        cast = {"text": "VARCHAR", "time": "TIMESTAMP", "flag": "BOOLEAN"}.get(kind)
        if cast is None:
            whole = self._types[name].removesuffix("[]") in ("TINYINT", "SMALLINT", "INTEGER", "BIGINT")
            cast = "BIGINT" if whole else "DOUBLE"
        value = f"unnest({column})" if is_list else column
        source = f"(SELECT row, {value} AS value FROM {self._sql})"
        with duckdb.connect() as connection:
            if "TIME ZONE" in self._types[name]:
                connection.execute("SET TimeZone = 'UTC'")
            found = connection.execute(
                f"SELECT row::BIGINT AS row, value::{cast} AS value FROM {source} WHERE value IS NOT NULL ORDER BY row"
            ).fetchnumpy()
        rows, values = np.asarray(found["row"], dtype=np.int64), np.asarray(found["value"])
        if kind != "text":
            return Values(kind, is_list, rows, values.astype("datetime64[us]") if kind == "time" else values, None)
        texts, codes = np.unique(values.astype(object), return_inverse=True)
        return Values(kind, is_list, rows, codes.astype(np.int32), texts.tolist())


def comparable(kind: str, value: Value, at: int, column: Column) -> Any:
    """Return a value as its column's kind has it.

    Raises:
        InputError: names the place of a value that the column cannot be compared with.
    """
    if kind == "flag" and isinstance(value, bool):
        return value
    if kind == "number" and isinstance(value, int | float) and not isinstance(value, bool):
        return value
    if kind == "text" and isinstance(value, str):
        return value
    if kind == "time" and isinstance(value, str) and (when := moment(value)) is not None:
        return np.datetime64(when, "us")
    holds = {"text": "texts", "number": "numbers", "flag": "true and false", "time": "times"}[kind]
    given = shown(value if not isinstance(value, bool) else str(value).lower(), 40)
    raise fault(at, f"column {shown(column.name, 40)} holds {holds}, and {given} is none: write {WANTED[kind]}")
