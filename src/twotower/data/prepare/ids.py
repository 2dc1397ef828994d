"""Ids of floats: a column in which neighbouring ids have become one number is refused, in files and in frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twotower.core.errors import InputError, shown
from twotower.data.prepare.database import column_sql, one, reading
from twotower.data.prepare.read import Relation
from twotower.data.prepare.values import text_of

DIGITS = {"FLOAT": 2**24, "DOUBLE": 2**53}
"""By type the number from which neighbouring whole numbers are one and the same."""


def id_text_of(connection: Any, relation: Relation, column: str) -> str:
    """Return SQL of the ids in a column of a file, as text.

    Raises:
        InputError: if the file has no such column, or its floats are too large to have kept their last digits.
    """
    kind = relation.require(column)
    with reading(relation.path):
        check_digits(connection, relation.sql, column, kind, str(relation.path))
    return text_of(column, kind)


def check_digits(
    connection: Any, source: str, column: str, kind: str, where: str, name_sql: Callable[[str], str] = column_sql
) -> None:
    """Refuse ids in floats that are infinite or so large that neighbouring ids have become one.

    Args:
        connection: to the database.
        source: SQL of the table.
        column: of ids.
        kind: its SQL type.
        where: file or frame, for the message.
        name_sql: how the table names its columns.

    Raises:
        InputError: names the column and what to give.
    """
    limit, name = DIGITS.get(kind), name_sql(column)
    if kind == "JSON":  # a number with a fraction is a float, whatever digits are written
        limit, number = DIGITS["DOUBLE"], f"json_type({name}) = 'DOUBLE'"
        name = f"CASE WHEN {number} THEN TRY_CAST({name} ->> '$' AS DOUBLE) END"
    if limit is None:
        return
    largest = one(connection, f"SELECT max(abs({name})) FILTER (NOT isnan({name})) FROM {source}")
    if largest is None or largest < limit:
        return
    if largest == float("inf"):
        raise InputError(f"{where}: an id in column {shown(column)} is infinite; an id is a finite number or a text")
    raise InputError(
        f"{where}: ids in column {shown(column)} are floats of {limit:,} and more, which have lost digits: neighbours "
        "have become one; give whole numbers or text"
    )
