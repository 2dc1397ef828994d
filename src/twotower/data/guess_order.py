"""A column that numbers a user's events, where a log has no clock: taken as their order where that is plain."""

from __future__ import annotations

import re
from typing import Any

from twotower.data.frame_notices import Notices
from twotower.data.prepare.database import quoted

PLAIN = (
    *("order", "seq", "sequence", "sequence_number", "seq_no", "step", "turn", "event_number", "event_index"),
    *("event_order", "interaction_index", "interaction_number", "order_in_session", "rank_in_session"),
    *("position_in_session", "order_in_sequence", "position_in_sequence"),
)
"""Names that mean a place among a user's events; case and signs between words do not matter."""

DOUBTFUL = ("position", "pos", "rank", "index", "idx", "number", "place", "ordinal", "row", "row_number")
"""Names that may mean that, or the place in a list that was shown, or the row of a file."""

_WHOLE = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "HUGEINT")


def find_order(connection: Any, types: dict[str, str], user: str, taken: list[str], notices: Notices) -> str:
    """Return the column that counts each user's events up from 0 or 1, without gaps; '' where that is not plain.

    A column that may be the order, but need not, is named in a notice that says how to take it.

    Args:
        connection: to DuckDB, with the sample of the log as ``events``.
        types: of its columns.
        user: the column of the user.
        taken: columns that are something else.
        notices: hear what was taken, or could be.
    """
    for column, kind in types.items():
        if column in taken or kind not in _WHOLE or not _named(column, (*PLAIN, *DOUBTFUL)):
            continue
        name = quoted(column)
        longest, counted, first, last = connection.execute(
            "SELECT max(rows), bool_and(rows = different AND highest - lowest + 1 = rows), min(lowest), max(lowest) "
            f"FROM (SELECT count(*) AS rows, count(DISTINCT {name}) AS different, min({name}) AS lowest, "
            f"max({name}) AS highest FROM events WHERE {quoted(user)} IS NOT NULL GROUP BY {quoted(user)})"
        ).fetchall()[0]
        if longest is None or longest < 2 or first is None:
            continue
        if _named(column, PLAIN) and counted and first == last and first in (0, 1):
            notices.tell(
                f"'{column}' counts each user's events from {first} on: taken as their order, without a clock; "
                "--time none if it is none"
            )
            return column
        notices.tell(
            f"'{column}' may be the order of a user's events: if it is, say --time {column} --unit order",
            doubtful=True,
        )
    return ""


def _named(column: str, names: tuple[str, ...]) -> bool:
    return _folded(column) in {_folded(name) for name in names}


def _folded(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
