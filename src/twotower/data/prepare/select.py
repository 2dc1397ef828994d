"""Events to arrays, in a few statements of SQL: label rule, duplicates, k-core, numbers of users and items, order."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np

from twotower.core.errors import InputError, shown
from twotower.core.records import FIRST_KNOWN
from twotower.data.prepare.arrays import RowWriter
from twotower.data.prepare.database import one
from twotower.data.prepare.log import LogReport, Progress
from twotower.data.prepare.spec import Spec

CHUNK = 1 << 18
"""Events that are in memory at once while arrays are written."""

PAIRS = 1 << 22
"""Events whose pairs of user and item are told apart at once: DuckDB's table of many more outgrows its limit."""

ORDER_SEED = 0
"""Of the order that is drawn for a log without one."""


def select_events(connection: Any, spec: Spec, report: LogReport, progress: Progress, place: str = "e.rowid") -> None:
    """Select from ``raw_events e`` into ``kept``: user and item as numbers in text order, only the events that stay.

    ``place`` is the SQL of an event's place in the log.
    """
    log, label = spec.interactions, spec.label
    progress("numbering users and items")
    drop = label is not None and label.keep == "positive"
    stays = f"__fault IS NULL {'AND label' if drop else ''}"
    for side, name in (("users", '"user"'), ("items", "item")):
        connection.execute(
            f"CREATE TABLE raw_{side} AS SELECT row_number() OVER (ORDER BY id) AS code, id "
            f"FROM (SELECT DISTINCT {name} AS id FROM raw_events WHERE {stays})"
        )
    report.negatives = one(connection, "SELECT count(*) FROM raw_events WHERE __fault IS NULL AND NOT label")
    report.negatives_dropped = report.negatives if drop else 0
    connection.execute(
        f"CREATE TABLE kept AS SELECT u.code AS u, i.code AS i, time, label, {place} AS place "
        'FROM raw_events e JOIN raw_users u ON e."user" = u.id JOIN raw_items i ON e.item = i.id '
        f"WHERE {stays}"
    )
    connection.execute("DROP TABLE raw_events")
    events = one(connection, "SELECT count(*) FROM kept")
    progress("looking for repeated events")
    report.repeats = events - _pairs(connection, events)
    if report.repeats and log.duplicates != "keep":
        direction = "ASC" if log.duplicates == "first" else "DESC"
        ranked = f"row_number() OVER (PARTITION BY u, i ORDER BY time {direction}, place {direction})"
        _replace(connection, f"SELECT * FROM kept QUALIFY {ranked} = 1")
        report.repeats_dropped = report.repeats
    before = one(connection, "SELECT count(*) FROM kept")
    report.events = _core(connection, log.min_user_events, log.min_item_events, progress)
    report.core_dropped = before - report.events


def _pairs(connection: Any, events: int) -> int:
    """How many pairs of user and item ``kept`` has, one share of the users after the other."""
    shares = max(1, -(-events // PAIRS))
    return sum(
        one(connection, f"SELECT count(*) FROM (SELECT DISTINCT u, i FROM kept WHERE u % {shares} = {share})")
        for share in range(shares)
    )


def check_left(spec: Spec, report: LogReport) -> None:
    """Refuse a log of which nothing is left, or nothing that a model could learn to find.

    Raises:
        InputError: says which rule took the last event.
    """
    log, label = spec.interactions, spec.label
    if label is not None and report.negatives and report.negatives == report.faults.rows - report.faults.malformed:
        column, rule = label.column or log.value, f"is at least {label.at_least or 0:g}"
        rule = rule if label.at_least is not None else f"is {shown(label.equals)}"
        raise InputError(f"not one event is positive: the label rule '{column} {rule}' calls every one negative")
    if report.events:
        return
    if report.core_dropped:
        raise InputError(
            f"no event is left: no users with {log.min_user_events} events on items with {log.min_item_events}; "
            "lower min_user_events or min_item_events"
        )
    raise InputError("no event is left")


def _core(connection: Any, min_user: int, min_item: int, progress: Progress) -> int:
    """Drop users and items with too few events, in turn until nothing changes; returns the events left."""
    events = one(connection, "SELECT count(*) FROM kept")
    previous = -1
    while events != previous and events and (min_user > 1 or min_item > 1):
        progress("dropping users and items with few events")
        previous = events
        for column, least in (("u", min_user), ("i", min_item)):
            if least > 1:
                enough = f"SELECT {column} FROM kept GROUP BY {column} HAVING count(*) >= {least}"
                _replace(connection, f"SELECT * FROM kept WHERE {column} IN ({enough})")
        events = one(connection, "SELECT count(*) FROM kept")
    return int(events)


def _replace(connection: Any, query: str) -> None:
    connection.execute(f"CREATE TABLE fewer AS {query}; DROP TABLE kept; ALTER TABLE fewer RENAME TO kept")


def order_of(spec: Spec) -> str:
    """Return the SQL that orders a user's events in ``kept``: by time and place in the log.

    Where nothing orders them, in an order that is drawn: files are often sorted by item or by value, and their order
    would be learnt as if it were time. The draw is the digest of an event's place, so that it is the same every time.
    """
    drawn = f"md5('{ORDER_SEED}:' || kept.place::VARCHAR), " if spec.interactions.is_unordered else ""
    return f"kept.time, {drawn}kept.place"


def columns_of(spec: Spec) -> dict[str, tuple[str, Any]]:
    """Return the arrays of a log besides offsets: the column each is made from, and the type of its values."""
    columns: dict[str, tuple[str, Any]] = {"items": ("i", np.int64)}
    if spec.interactions.time and spec.interactions.unit != "order":
        columns["times"] = ("time", np.int64)
    if spec.label is not None and spec.label.keep == "all":
        columns["labels"] = ("label", np.float32)
    return columns


def write_log(connection: Any, spec: Spec, folder: Path, num_users: int, progress: Progress) -> None:
    """Write offsets, items, times and labels from ``kept`` and the tables ``users`` and ``items`` (row, code).

    Events are in the order of user and `order_of`. Only `CHUNK` of them are in memory at once.
    """
    progress("sorting the log")
    connection.execute(
        "CREATE TABLE ordered AS SELECT u.row AS u, i.row AS i, floor(time)::BIGINT AS time, label::FLOAT AS label "
        "FROM kept JOIN users u ON kept.u = u.code JOIN items i ON kept.i = i.code "
        f"ORDER BY u.row, {order_of(spec)}"
    )
    connection.execute("DROP TABLE kept")
    progress("writing the log")
    events = one(connection, "SELECT count(*) FROM ordered")
    columns = columns_of(spec)
    folder.mkdir()
    names = ", ".join(column for column, _ in columns.values())
    lengths = np.zeros(num_users + 1, dtype=np.int64)
    with contextlib.ExitStack() as files:
        arrays = {
            name: files.enter_context(RowWriter(folder / f"{name}.npy", dtype, (events,)))
            for name, (_, dtype) in columns.items()
        }
        for start in range(0, events, CHUNK):
            rows = connection.execute(
                f"SELECT u, {names} FROM ordered WHERE rowid >= {start} AND rowid < {start + CHUNK} ORDER BY rowid"
            ).fetchnumpy()
            for name, (column, _) in columns.items():
                arrays[name].append(rows[column])
            users, counts = np.unique(rows["u"], return_counts=True)
            lengths[users + 1] += counts
    np.save(folder / "offsets.npy", np.cumsum(lengths))
    connection.execute("DROP TABLE ordered")


def number_users(connection: Any) -> int:
    """Fill ``users`` (row, id, code): those with a kept event, in text order; returns how many rows there are."""
    connection.execute(
        f"CREATE TABLE users AS SELECT row_number() OVER (ORDER BY id) + {FIRST_KNOWN - 1} AS row, id, code "
        "FROM raw_users WHERE code IN (SELECT u FROM kept)"
    )
    return int(one(connection, "SELECT count(*) FROM users")) + FIRST_KNOWN


def number_items(connection: Any, listed: bool, kept: str = "code IN (SELECT i FROM kept)") -> int:
    """Fill ``items`` (row, id, code) in text order, and return how many rows there are.

    They are those of ``raw_items`` with a kept event, and when ``listed`` those of ``item_table`` that the log never
    had, or that the label rule left without events. ``kept`` is the SQL of the former.
    """
    also = "UNION ALL SELECT __id, NULL FROM item_table WHERE __id NOT IN (SELECT id FROM raw_items)" if listed else ""
    connection.execute(
        f"CREATE TABLE items AS SELECT row_number() OVER (ORDER BY id) + {FIRST_KNOWN - 1} AS row, id, code "
        f"FROM (SELECT id, code FROM raw_items WHERE {kept} {also})"
    )
    return int(one(connection, "SELECT count(*) FROM items")) + FIRST_KNOWN
