"""Data frames of any library as Parquet files: pandas, Polars, Arrow, DuckDB relations and plain columns."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twotower.core.errors import InputError, closest
from twotower.data.frame_values import plain
from twotower.data.prepare.database import literal, one, parquet, quoted, reading

ACCEPTED = "a pandas or Polars DataFrame, a Polars LazyFrame, a pyarrow Table, a DuckDB relation or a dict of columns"

_TOO_WIDE = ("HUGEINT", "UHUGEINT", "UUID")
"""Types that Parquet does not keep to the digit: they become text."""

_FRAMES = {
    ("pandas", "DataFrame"),
    ("polars", "DataFrame"),
    ("polars", "LazyFrame"),
    ("pyarrow", "Table"),
    ("pyarrow", "RecordBatch"),
    ("duckdb", "DuckDBPyRelation"),
}


@dataclass(frozen=True)
class Frame:
    """Hold a table in memory, before its values are read."""

    what: str
    """For messages: events, items or users."""
    library: str
    """pandas, polars, pyarrow, duckdb or dict."""
    value: Any
    columns: tuple[str, ...]

    @staticmethod
    def of(value: Any, what: str) -> Frame:
        """Recognise a frame by its class, without importing the library that it comes from.

        Raises:
            InputError: if it is no frame, or two columns have one name.
        """
        bases = {(base.__module__.split(".")[0].lstrip("_"), base.__name__) for base in type(value).__mro__}
        library, kind = next((pair for pair in sorted(bases) if pair in _FRAMES), ("", ""))
        if not library and isinstance(value, Mapping):
            library = "dict"
        if not library:
            hint = "; for files write a spec and call Dataset.prepare" if isinstance(value, str | Path) else ""
            raise InputError(f"{what} is of type {type(value).__name__}, which is no data frame; give {ACCEPTED}{hint}")
        if library == "pandas":
            value = _with_index(value, what)
        try:
            texts = [str(name) for name in _names(library, kind, value)]
        except Exception as error:  # a plan or a connection that does not work, each library with errors of its own
            raise InputError(f"{what}: cannot be read: {_line(error)}") from None
        if not texts:
            raise InputError(f"{what}: the frame has no columns")
        lowered = Counter(name.lower() for name in texts)
        for name in texts:
            if lowered[name.lower()] > 1:
                raise InputError(f"{what}: two columns are called '{name}' (letter case aside); rename one")
        return Frame(what, library, value, tuple(texts))

    def require(self, column: str, argument: str) -> str:
        """Return ``column`` if the frame has it.

        Raises:
            InputError: names the closest column.
        """
        if column not in self.columns:
            raise InputError(f"{self.what}: no column '{column}' ({argument}); {closest(str(column), self.columns)}")
        return column

    def zone(self, column: str) -> str:
        """Return the time zone in the type of a column of datetimes; empty: none, or not known before reading."""
        if self.library == "pandas":
            kind = str(self.value.dtypes.iloc[self.columns.index(column)])
        elif self.library == "polars":
            kind = str(self.value.collect_schema()[column])
        elif self.library == "pyarrow":
            kind = str(self.value.schema.field(self.columns.index(column)).type)
        else:
            return ""
        found = re.search(r"(?:tz=|time_zone='|\[\w+, )(?!tz=)([\w/+:-]+)", kind)
        return "" if found is None or found[1] == "None" else found[1]

    def store(self, connection: Any, path: Path, columns: Sequence[str], strict: Iterable[str] = ()) -> dict[str, str]:
        """Write ``columns`` to the Parquet file ``path``; returns the SQL type of each.

        Args:
            connection: to DuckDB; sees the frame only while this runs.
            path: of the file.
            columns: to write, in this order.
            strict: those whose values must all be of one type. Others of mixed types become text.

        Raises:
            InputError: if there are no rows, a strict column is of mixed types, or the library cannot hand them over.
        """
        source = parquet(path)
        with reading(Path(self.what)):
            relation = self._relation(connection, path, columns, set(strict))
            wide = [name for name, kind in types_of(connection, relation).items() if kind in _TOO_WIDE]
            replaced = ", ".join(f"{quoted(name)}::VARCHAR AS {quoted(name)}" for name in wide)
            connection.execute(
                f"COPY (SELECT * {f'REPLACE ({replaced})' if wide else ''} FROM {relation}) "
                f"TO {literal(path)} (FORMAT parquet)"
            )
            connection.unregister("frame")
            path.with_name(path.name + ".raw").unlink(missing_ok=True)
            if not one(connection, f"SELECT count(*) FROM {source}"):
                raise InputError(f"{self.what}: the frame has no rows")
            return types_of(connection, source)

    def _relation(self, connection: Any, path: Path, columns: Sequence[str], strict: set[str]) -> str:
        """The chosen columns as something that DuckDB reads: a registered object, or a Parquet file of the library."""
        raw = path.with_name(path.name + ".raw")
        if self.library == "duckdb":
            self.value.project(", ".join(map(quoted, columns))).write_parquet(str(raw))
            return parquet(raw)
        if self.library == "polars":
            polars = sys.modules["polars"]
            try:
                frame = self.value.lazy().select(list(columns)).collect()
            except polars.exceptions.PolarsError as error:
                raise InputError(f"{self.what}: cannot be read: {_line(error)}") from None
            for name in columns:
                if str(frame.schema[name]) == "Object":
                    values = plain(frame[name].to_list(), f"{self.what}: column '{name}'", name in strict)
                    frame = frame.with_columns(polars.Series(name, list(values)))
            try:
                frame.write_parquet(raw)  # by itself: DuckDB would ask for pyarrow
            except polars.exceptions.PolarsError as error:
                raise InputError(f"{self.what}: cannot be read: {_line(error)}") from None
            return parquet(raw)
        if self.library == "pyarrow":
            connection.register("frame", self.value.select(list(columns)))
            return "frame"
        given = self._pandas(columns, strict) if self.library == "pandas" else self._arrays(columns, strict)
        rows = len(given) if self.library == "pandas" else len(next(iter(given.values())))
        connection.execute(f"SET GLOBAL pandas_analyze_sample = {max(rows, 1)}")
        connection.register("frame", given)
        return "frame"

    def _pandas(self, columns: Sequence[str], strict: set[str]) -> Any:
        frame = self.value.set_axis(list(self.columns), axis=1)[list(columns)].reset_index(drop=True)
        for name in columns:
            series = frame[name]
            kind = str(series.dtype)
            if kind == "category" and series.cat.categories.dtype == object:
                kind = "object"
            if kind == "object" or kind.startswith(("period", "interval", "Sparse", "complex")):
                frame[name] = plain(series.astype(object).tolist(), f"{self.what}: column '{name}'", name in strict)
        return frame

    def _arrays(self, columns: Sequence[str], strict: set[str]) -> dict[str, NDArray[Any]]:
        by_name = {str(name): values for name, values in self.value.items()}
        arrays = {}
        for name in columns:
            values, where = by_name[name], f"{self.what}: column '{name}'"
            if isinstance(values, str) or not hasattr(values, "__len__"):
                raise InputError(f"{where} is of type {type(values).__name__}; give a list or an array")
            array = np.asarray(values) if hasattr(values, "dtype") else None
            if array is not None and array.ndim == 1 and array.dtype.kind in "biuf":
                arrays[name] = array
            elif array is not None and array.ndim == 1 and array.dtype.kind == "M":
                arrays[name] = array.astype("datetime64[us]")
            else:
                arrays[name] = plain(list(values) if array is None else list(array), where, name in strict)
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) > 1:
            said = ", ".join(f"'{name}' {length:,}" for name, length in lengths.items())
            raise InputError(f"{self.what}: columns have unequal lengths: {said}")
        return arrays


def types_of(connection: Any, source: str) -> dict[str, str]:
    """Return the SQL type of each column of a table."""
    return {row[0]: row[1] for row in connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()}


def _names(library: str, kind: str, value: Any) -> list[Any]:
    if kind == "LazyFrame":
        return list(value.collect_schema().names())
    if library == "pyarrow":
        return list(value.schema.names)
    return list(value if library == "dict" else value.columns)


def _with_index(frame: Any, what: str) -> Any:
    """A pandas frame whose named index levels are columns too, unless a column has that name."""
    if frame.columns.nlevels > 1:
        raise InputError(f"{what}: the frame has {frame.columns.nlevels} levels of column names; give it one")
    names = list(frame.index.names)
    if any(name is not None for name in names) and not set(names) & set(frame.columns):
        return frame.reset_index()
    return frame


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
