"""Vocabularies of a bundle and of newer data as one: known ids and values keep their rows, new ones follow."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from twotower.core.errors import InputError, shown
from twotower.core.records import FIRST_KNOWN
from twotower.data.prepare.database import literal, one, parquet, quoted

log = logging.getLogger(__name__)

MOST_OTHER = 0.5
"""Share of the ids in both whose texts (such as titles) may differ before they are taken for those of other data."""


class Numbered(NamedTuple):
    """Hold the row in the joined vocabulary of each row of the newer one, and how many rows there are in all."""

    rows: Tensor
    size: int
    known: int
    """How many rows of the newer one are in the older one."""


def join_vocabularies(
    connection: Any, stored: Path, newer: Path, to: Path, *, key: str, size: int, newer_size: int
) -> Numbered:
    """Write ``stored`` with what only ``newer`` has below it; raw columns of known ids are the newer ones.

    Columns are those of ``stored``; others of ``newer`` are left out.

    Args:
        connection: of DuckDB.
        stored: Parquet file of row, id (or value) and more columns.
        newer: likewise.
        to: the file to write.
        key: "id" or "value".
        size: rows of ``stored``, with padding and unknown.
        newer_size: rows of ``newer``, likewise.

    Raises:
        InputError: if a file does not list its rows.
    """
    kinds = []
    for name, path in (("stored", stored), ("newer", newer)):
        if not path.is_file():
            raise InputError(f"{path}: no such file, so nothing says what its rows are; prepare the data again")
        connection.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM {parquet(path)}")
        kinds.append(
            dict(connection.execute(f"SELECT column_name, column_type FROM (DESCRIBE {name}) ORDER BY ALL").fetchall())
        )
    mine, theirs = kinds
    if not {"row", key} <= mine.keys() & theirs.keys():
        raise InputError(f"{newer}: has no columns row and {key}; prepare the data again")
    connection.execute(
        f"CREATE OR REPLACE TABLE placed AS SELECT newer.row AS there, stored.row IS NOT NULL AS known, "
        f"coalesce(stored.row, {size - 1} + row_number() OVER (PARTITION BY stored.row IS NULL ORDER BY newer.row)) "
        f"AS row FROM newer LEFT JOIN stored USING ({key})"
    )
    columns = []
    for name in mine:
        old, new = f"stored.{quoted(name)}", f"newer.{quoted(name)}"
        if name in ("row", key):
            columns.append(f"coalesce({old}, {'placed.row' if name == 'row' else new}) AS {quoted(name)}")
            continue
        if name not in theirs:
            columns.append(f"{old} AS {quoted(name)}")
            continue
        cast = f"TRY_CAST({new} AS {mine[name]})"
        if lost := one(connection, f"SELECT count(*) FROM newer WHERE {new} IS NOT NULL AND {cast} IS NULL"):
            log.warning("column %s: %d values are no %s and are left out", shown(name), lost, mine[name])
        columns.append(f"coalesce({', '.join((cast, old) if key == 'id' else (old, cast))}) AS {quoted(name)}")
    connection.execute(
        f"COPY (SELECT {', '.join(columns)} FROM stored FULL JOIN "
        "(newer JOIN placed ON newer.row = placed.there) ON stored.row = placed.row ORDER BY 1) "
        f"TO {literal(to)} (FORMAT parquet)"
    )
    rows = torch.full((newer_size,), -1, dtype=torch.int64)
    rows[:FIRST_KNOWN] = torch.arange(FIRST_KNOWN)
    found = connection.execute("SELECT there, row FROM placed").fetchnumpy()
    rows[torch.from_numpy(found["there"])] = torch.from_numpy(found["row"]).long()
    if (rows < 0).any():
        raise InputError(f"{newer}: does not list every row; prepare the data again")
    known = int(one(connection, "SELECT count(*) FROM placed WHERE known"))
    return Numbered(rows, size + newer_size - FIRST_KNOWN - known, known)


def check_same_texts(connection: Any, what: str, side: str) -> None:
    """Refuse tables ``stored`` and ``newer`` whose ids are alike by chance, as numbers are: what names rows differs.

    Called after `join_vocabularies`, on its tables.

    Raises:
        InputError: names the first id with two texts.
    """
    texts = [
        name
        for (name,) in connection.execute(
            "SELECT column_name FROM (DESCRIBE stored) WHERE column_type = 'VARCHAR' AND column_name <> 'id' "
            "AND column_name IN (SELECT column_name FROM (DESCRIBE newer) WHERE column_type = 'VARCHAR')"
        ).fetchall()
    ]
    for name in texts:
        column = quoted(name)
        if one(connection, f"SELECT count(DISTINCT {column}) * 2 <= count(*) FROM stored"):
            continue  # a category, which may change for all
        both = f"FROM stored JOIN newer USING (id) WHERE stored.{column} IS NOT NULL AND newer.{column} IS NOT NULL"
        differ = f"stored.{column} <> newer.{column}"
        total, other = connection.execute(f"SELECT count(*), count(*) FILTER ({differ}) {both}").fetchone()
        if total and other > MOST_OTHER * total:
            first = f"SELECT id, stored.{column}, newer.{column} {both} AND {differ} ORDER BY stored.row LIMIT 1"
            id, mine, theirs = connection.execute(first).fetchone()
            raise InputError(
                f"{what}: these are the ids of another data set: {side} {shown(id, 40)} is {shown(mine, 60)} in the "
                f"bundle and {shown(theirs, 60)} there, and so are {other:,} of {total:,}"
            )


def renumbered(column: Tensor, rows: Tensor, width: int) -> Tensor:
    """Return a column of a discrete feature in the rows of the joined vocabulary, cut or padded to ``width`` values."""
    column = rows.to(column.device)[column]
    if column.ndim == 1:
        return column
    padded = column.new_zeros(len(column), width)
    kept = min(width, column.shape[1])
    padded[:, :kept] = column[:, :kept]
    return padded
