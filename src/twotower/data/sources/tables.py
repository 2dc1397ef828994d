"""Official files to Parquet tables, streamed through DuckDB: the SQL that all families share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from twotower.core.errors import InputError, closest
from twotower.data.prepare.database import NO_FOLDERS, as_pattern
from twotower.data.prepare.spec import Entities, FeatureSpec, Interactions, Label, Source, Spec


@contextlib.contextmanager
def database() -> Iterator[Any]:
    """Open a DuckDB connection in memory that spills beyond 1 GB; its errors come out as `InputError`.

    Raises:
        InputError: if a file cannot be read as what it should be.
    """
    import duckdb

    connection = duckdb.connect(config={"memory_limit": "1GB"})
    connection.execute("SET enable_progress_bar = false")
    try:
        yield connection
    except duckdb.OutOfMemoryException:
        raise
    except (duckdb.InvalidInputException, duckdb.ConversionException, duckdb.BinderException) as error:
        raise InputError(f"cannot read the files as this data set: {' '.join(str(error).split())[:300]}") from None
    finally:
        connection.close()


def literal(value: object) -> str:
    """Return a SQL string literal."""
    return "'" + str(value).replace("'", "''") + "'"


def name(column: str) -> str:
    """Return a SQL name in quotes."""
    return '"' + column.replace('"', '""') + '"'


def number(column: str, kind: str = "DOUBLE") -> str:
    """Return SQL for a number, null where the text is none.

    The trim keeps DuckDB from moving the conversion into its CSV reader, where it would fail instead.
    """
    return f"TRY_CAST(trim({column}::VARCHAR) AS {kind})"


def delimited(
    path: Path,
    columns: Sequence[str] = (),
    *,
    separator: str = ",",
    encoding: str = "utf-8",
    quote: str = '"',
    needed: Sequence[str] = (),
) -> str:
    """Return SQL for a delimited text file, all columns VARCHAR, rows in file order.

    Without ``columns`` the first line names them (blanks around a name are dropped) and must hold all ``needed``.

    Raises:
        InputError: if the file is empty or lacks a needed column.
    """
    header = not columns
    if header:
        with path.open(encoding=encoding, errors="replace") as file:
            columns = [
                column.strip() for column in file.readline().removeprefix("\ufeff").rstrip("\r\n").split(separator)
            ]
        missing = [column for column in needed if column not in columns]
        if missing:
            raise InputError(f"{path}: no column '{missing[0]}' in its first line; {closest(missing[0], columns)}")
    types = ", ".join(f"{literal(column)}: 'VARCHAR'" for column in columns)
    return (
        f"read_csv({as_pattern(path)}, auto_detect=false, header={str(header).lower()}, delim={literal(separator)}, "
        f"quote={literal(quote)}, escape={literal(quote)}, encoding={literal(encoding)}, columns={{{types}}}, "
        f"{NO_FOLDERS})"
    )


def write(connection: Any, query: str, target: Path) -> None:
    """Write the rows of ``query``, in its order, as Parquet."""
    connection.execute(f"COPY ({query}) TO {literal(target)} (FORMAT parquet, COMPRESSION zstd)")


def spec(
    title: str,
    *,
    time: str = "",
    unit: str = "s",
    value: str = "",
    label: Label | None = None,
    users: Mapping[str, str] | None = None,
    items: Mapping[str, str] | None = None,
    item_title: str = "",
    split: Mapping[str, Any] | None = None,
) -> Spec:
    """Return the spec of a folder with ``interactions.parquet`` and, if given, ``users.parquet`` and ``items.parquet``.

    Ids are the columns ``user_id`` and ``item_id`` in all three. Without ``time`` the order is that of the file.

    Args:
        title: the name of the data set.
        time: the column of the clock, in ``unit``.
        value: the column of the rating.
        label: the rule that makes an event a positive; None when every event is one.
        users: kind of each feature column; None without a table of users.
        items: the same for items.
        item_title: the column of ``items.parquet`` that a person reads.
        split: its kind and options; None: leave one out.
    """

    def entities(name: str, identifier: str, kinds: Mapping[str, str] | None, title: str = "") -> Entities | None:
        if kinds is None:
            return None
        features = tuple(FeatureSpec(feature, kind) for feature, kind in kinds.items())
        return Entities(Source((name,)), identifier, title, features)

    return Spec(
        title,
        Interactions(Source(("interactions.parquet",)), "user_id", "item_id", time=time, unit=unit, value=value),
        label,
        entities("users.parquet", "user_id", users),
        entities("items.parquet", "item_id", items, item_title),
        dict(split or {"kind": "leave-one-out"}),
    )
