"""Ids that are lists or objects: a column of JSON or Parquet that holds the id somewhere inside."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twotower.core.errors import shown
from twotower.core.schema import Side

NESTED = r"\[.*\]|\{.*\}"


def tell_nested_ids(connection: Any, sides: Iterable[Side]) -> list[str]:
    """Return one sentence for each side of which ids are lists or objects, kept as the text that they are.

    Args:
        connection: to the database, with the tables ``users`` and ``items``.
        sides: to be looked at.
    """
    said = []
    for side in sides:
        number, first = connection.execute(
            f"SELECT count(*), min(id) FROM {side}s WHERE regexp_full_match(id, '{NESTED}', 's')"
        ).fetchall()[0]
        if number:
            said.append(
                f"{number:,} ids of {side}s are lists or objects, as text, such as {shown(first, 40)}: "
                "name a column that holds the id itself"
            )
    return said
