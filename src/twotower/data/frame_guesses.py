"""Guesses about a frame that the caller left open: which column is the user, and of what kind a feature is."""

from __future__ import annotations

import re
from typing import Any

from twotower.core.errors import InputError
from twotower.data.frame_reader import Frame
from twotower.data.prepare.database import literal, quoted
from twotower.data.prepare.values import LIST_IN_TEXT

NAMES = {
    "user": (
        *("user", "user_id", "userId", "uid", "users", "customer", "customer_id", "client", "client_id", "visitor"),
        *("visitor_id", "member_id", "account_id", "profile_id", "reviewer_id", "session", "session_id", "buyer_id"),
        *("subscriber_id", "person_id", "household_key", "steam_id", "user_name"),
    ),
    "item": (
        *("item", "item_id", "itemId", "iid", "items", "movie", "movie_id", "film", "film_id", "product"),
        *("product_id", "parent_asin", "asin", "sku", "article", "article_id", "book", "book_id", "isbn", "song"),
        *("song_id", "track", "track_id", "artist", "artist_id", "video", "video_id", "news_id", "content_id"),
        *("doc_id", "document_id", "business_id", "game_id", "ad_id", "listing_id", "recipe_id", "stock_code"),
    ),
    "time": (
        *("time", "timestamp", "ts", "datetime", "date", "unixtime", "unix_timestamp", "event_time", "event_timestamp"),
        *("time_ms", "timestamp_ms", "created_at", "created", "when", "unix_review_time", "played_at", "invoice_date"),
        *("order_date", "date_time"),
    ),
    "value": ("rating", "ratings", "stars", "score", "overall", "vote", "value"),
    "label": ("label", "click", "clicked", "is_click", "liked", "is_liked", "target"),
    "title": ("title", "name", "item_title", "item_name", "movie_title", "product_title", "product_name"),
}
"""Column names by what they are taken for; case and signs between words do not matter."""

_UNITS = ((1e11, "s"), (1e14, "ms"), (1e17, "us"), (float("inf"), "ns"))
_FIRST_CLOCK = 1e8
"""Seconds, in March 1973: numbers that stay below it are no Unix times of a log."""

_ROW_NUMBERS = r"column\d+|unnamed: ?\d+|index|row|row_?(id|nr|number)"
"""Names of columns in lower case that hold what a program counted; a header without a name is column1 here."""

_WHOLE = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")

_NUMBER = r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?"
_NUMBERS_IN_TEXT = rf"\s*\[\s*{_NUMBER}((\s*,\s*|\s+){_NUMBER})*\s*,?\s*\]\s*"


def candidates(frame: Frame, role: str, *more: str) -> list[str]:
    """Return columns whose names suggest that they hold ``role``, a key of `NAMES`, or that are one of ``more``."""
    known = {_folded(name) for name in (*NAMES[role], *more)}
    return [name for name in frame.columns if _folded(name) in known]


def is_usual(name: str) -> bool:
    """Return whether a text is a usual name of a column, of whatever role.

    Examples:
        >>> is_usual("User ID"), is_usual("item_id:token"), is_usual("42")
        (True, True, False)
    """
    return _folded(name) in {_folded(known) for names in NAMES.values() for known in names}


def find_column(frame: Frame, role: str, given: str | None, *, required: bool) -> str:
    """Find the column of the events that holds ``role``: the given one, else the only one with such a name.

    Returns:
        Its name; empty when there is none and none is required.

    Raises:
        InputError: if the given one is missing, none is found, or several could be meant.
    """
    if given is not None:
        return frame.require(given, role)
    found = candidates(frame, role)
    if len(found) == 1:
        return found[0]
    if len(found) > 1:
        listed = ", ".join(f"'{name}'" for name in found)
        raise InputError(f"{frame.what}: columns {listed} could each be the {role}; say which with {role}='{found[0]}'")
    if not required:
        return ""
    shown = ", ".join(frame.columns[:20])
    raise InputError(
        f"{frame.what}: no column is called '{role}' or a usual name of it; say which with {role}='...' (columns: "
        f"{shown})"
    )


def find_id(frame: Frame, role: str, in_events: str) -> str:
    """Find the id column of a table of users or items: named as in the events, else the only usual name.

    Raises:
        InputError: if none or several could be meant.
    """
    if in_events in frame.columns:
        return in_events
    found = candidates(frame, role) or candidates(frame, role, "id")
    if len(found) == 1:
        return found[0]
    said = f"columns {', '.join(map(repr, found))} could each be the id" if found else "no column looks like the id"
    raise InputError(f"{frame.what}: {said}; rename it to '{in_events}', as in the events")


def guess_unit(usual: float) -> str:
    """Guess the unit of times whose median size is ``usual``: s, ms, us, ns, or order for what is no clock.

    Examples:
        >>> [guess_unit(n) for n in (250.0, 893286638.0, 1.7e12, 1.7e15, 1.7e18)]
        ['order', 's', 'ms', 'us', 'ns']
    """
    if usual < _FIRST_CLOCK:
        return "order"
    return next(unit for limit, unit in _UNITS if usual < limit)


def guess_kind(connection: Any, source: str, column: str, sql_type: str) -> tuple[str, str]:
    """Guess the kind of feature that a column makes, and why; an empty kind where it makes none.

    Args:
        connection: to DuckDB.
        source: SQL of the table.
        column: of it.
        sql_type: of the column.
    """
    name = quoted(column)
    rows, distinct = connection.execute(f"SELECT count({name}), count(DISTINCT {name}) FROM {source}").fetchall()[0]
    if distinct < 2:
        return "", "has one value for all" if distinct else "is empty"
    if sql_type.endswith("]"):
        return _list_kind(connection, source, name, sql_type)
    whole = sql_type in _WHOLE
    if whole and distinct == rows and re.fullmatch(_ROW_NUMBERS, column.lower()):
        return "", "numbers the rows"
    if whole and _folded(column).endswith("id") and _folded(column) not in ("paid", "grid", "bid"):
        return ("categorical", f"{distinct:,} ids") if distinct * 2 <= rows else ("", "looks like another id")
    if whole or sql_type.startswith(("FLOAT", "DOUBLE", "DECIMAL")):
        return "numeric", "numbers"
    if sql_type == "BOOLEAN":
        return "categorical", "true or false"
    if sql_type != "VARCHAR":
        return "", f"is of type {sql_type}, which is no kind of feature; turn it into numbers or text"
    listed = f"count(*) FILTER (regexp_full_match({name}, {literal(LIST_IN_TEXT)}))"
    if connection.execute(f"SELECT {listed} FROM {source}").fetchall()[0][0] * 20 >= rows * 19:
        return "multi_categorical", "lists in text"
    if kind := _numbers_in_text(connection, source, name, rows):
        return kind
    piped, parts, words = connection.execute(
        f"SELECT count(*) FILTER (contains({name}, '|')), "
        f"(SELECT count(DISTINCT part) FROM (SELECT unnest(string_split({name}, '|')) AS part FROM {source})), "
        f"avg(len(regexp_extract_all({name}, '\\S+'))) FROM {source} WHERE {name} IS NOT NULL"
    ).fetchall()[0]
    if piped * 20 >= rows and parts * 2 <= max(rows, 2 * piped):
        return "multi_categorical", f"{parts:,} values between '|'"
    if distinct * 2 <= rows:
        return "categorical", f"{distinct:,} values"
    if words >= 1.5:
        return "text", f"{words:.1f} words a row"
    return "", f"has its own value in nearly every row ({distinct:,} of {rows:,})"


def _numbers_in_text(connection: Any, source: str, name: str, rows: int) -> tuple[str, str] | None:
    """The kind of a column of text whose cells are lists of numbers in brackets, and why; None where they are not."""
    parts = f"len(regexp_extract_all({name}, {literal(_NUMBER)}))"
    listed, broken, shortest, longest = connection.execute(
        f"SELECT count(*), count(*) FILTER (regexp_matches({name}, '[.eE]')), min({parts}), max({parts}) FROM {source} "
        f"WHERE regexp_full_match({name}, {literal(_NUMBERS_IN_TEXT)})"
    ).fetchall()[0]
    if not listed or listed * 20 < rows * 19:
        return None
    if not broken:
        return "multi_categorical", "lists of whole numbers in text"
    if shortest != longest:
        return "", f"holds lists of {shortest} to {longest} numbers in text; a vector needs one length"
    return "vector", f"{longest} numbers a row, in text"


def _list_kind(connection: Any, source: str, name: str, sql_type: str) -> tuple[str, str]:
    inner = re.sub(r"\[\d*\]$", "", sql_type)
    if inner.endswith("]") or inner.startswith(("STRUCT", "MAP")):
        return "", "holds nested lists"
    if not inner.startswith(("FLOAT", "DOUBLE", "DECIMAL")):
        return "multi_categorical", "lists"
    shortest, longest = connection.execute(
        f"SELECT min(len({name})), max(len({name})) FROM {source} WHERE {name} IS NOT NULL"
    ).fetchall()[0]
    if shortest != longest:
        return "", f"holds lists of {shortest} to {longest} numbers; a vector needs one length"
    return "vector", f"{longest} numbers a row"


def _folded(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", re.sub(r":(token|float)(_seq)?$", "", name.lower()))
