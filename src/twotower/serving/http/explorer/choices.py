"""Choices: the columns of items that a page can filter by, and the values of those that have few."""

from __future__ import annotations

from typing import Any

import duckdb

from twotower.data.prepare.database import parquet, quoted
from twotower.serving.filters.columns import ItemColumns

FEW = 12
"""Values of a column of texts that are offered one by one; a column of more is filtered by an expression."""
WIDEST = 60
"""Characters of a value that is offered."""
MOST = 24
"""Columns that are offered, in the order of the table."""


def choices(columns: ItemColumns) -> list[dict[str, Any]]:
    """Return the columns that a filter reads, each with what there is to choose from.

    Args:
        columns: of a bundle's items.

    Returns:
        For each its ``name``, ``kind`` (text, number, flag or time) and whether it is a ``list``; of texts with few
        values and of flags the ``values``, those of most items first; of numbers the ``range``.
    """
    found: list[dict[str, Any]] = []
    if not columns.path.is_file():
        return found
    with duckdb.connect() as connection:
        for name, (kind, is_list) in list(columns.kinds.items())[:MOST]:
            value = f"unnest({quoted(name)})" if is_list else quoted(name)
            source = f"(SELECT {value} AS value FROM {parquet(columns.path)})"
            one: dict[str, Any] = {"name": name, "kind": kind, "list": is_list}
            if kind == "flag":
                one["values"] = [True, False]
            elif kind == "number" and not is_list:
                one["range"] = _range(connection, source)
            elif kind == "text" and name != "id":
                one["values"] = _values(connection, source)
            found.append(one)
    return found


def _range(connection: duckdb.DuckDBPyConnection, source: str) -> list[float] | None:
    (low, high), *_ = connection.execute(
        f"SELECT min(value)::DOUBLE, max(value)::DOUBLE FROM {source} WHERE isfinite(value::DOUBLE)"
    ).fetchall()
    return None if low is None else [low, high]


def _values(connection: duckdb.DuckDBPyConnection, source: str) -> list[str] | None:
    """The values of a column, or None where they are too many or too long to choose from."""
    (about,), *_ = connection.execute(f"SELECT approx_count_distinct(value) FROM {source}").fetchall()
    if about > 2 * FEW:
        return None
    rows = connection.execute(
        f"SELECT value::VARCHAR, count(*) AS items FROM {source} WHERE value IS NOT NULL "
        "GROUP BY value ORDER BY items DESC, value LIMIT ?",
        [FEW + 1],
    ).fetchall()
    texts = [str(text) for text, _ in rows]
    return texts if 0 < len(texts) <= FEW and max(map(len, texts)) <= WIDEST else None
