"""The raw log to arrays, in a few statements of SQL: label rule, duplicates, k-core, time order."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from twotower.core.address import is_address
from twotower.core.engines.base import Engine, Work
from twotower.core.errors import InputError, shown
from twotower.core.parts import Job, prepare_parts, run_parts
from twotower.core.records import FIRST_KNOWN
from twotower.core.store import Store
from twotower.data.prepare.arrays import RowWriter
from twotower.data.prepare.database import as_pattern, literal, one, reading
from twotower.data.prepare.read import Faults, Relation, load, relations
from twotower.data.prepare.source_files import files_of
from twotower.data.prepare.spec import Label, Spec
from twotower.data.prepare.values import canonical, form_of_text, number_of, seconds_of, text_of

Progress = Callable[[str], None]
"""Is told what is being done, in a few words."""

CHUNK = 1 << 18
"""Events that are in memory at once while arrays are written."""

ORDER_SEED = 0
"""Of the order that is drawn for a log without one."""

_EARLY = 2 * 365 * 86400
"""Seconds from 1970 until the end of 1971: a log whose every time lies before has its times in another unit."""

_LATE = 4_102_444_800
"""Seconds from 1970 until 2100: later times are likely in another unit."""

_FAR_FUTURE = 1e11
"""Seconds, in the year 5138: times beyond it are in another unit."""


RAW = '"user" VARCHAR, item VARCHAR, time DOUBLE, label BOOLEAN, __fault VARCHAR'
"""Columns of the table of events as they are read."""


class Shared(NamedTuple):
    """Configure who reads the files of the log."""

    engine: Engine
    work: Work
    """`twotower.data.prepare.log_part.read_part`."""
    memory_limit: str
    """Of each worker's DuckDB."""


@dataclass
class LogReport:
    """Hold what became of the rows of a log."""

    faults: Faults = field(default_factory=Faults)
    negatives: int = 0
    """Events that the label rule calls negative."""
    negatives_dropped: int = 0
    repeats: int = 0
    """Events that repeat an earlier event's user and item."""
    repeats_dropped: int = 0
    core_dropped: int = 0
    """Events of users and items with too few."""
    events: int = 0
    """Kept in the end."""
    early: int = 0
    """Events, all of the log's, that lie before 1972: times of another unit."""
    none: int = 0
    """Events with a time of 0 or less, where others lie in 1972 or later: times that are missing."""
    late: int = 0
    """Events after 2100."""


def read_log(connection: Any, spec: Spec, work: Path, progress: Progress, shared: Shared | None = None) -> LogReport:
    """Fill the table ``events``: user and item as text, time, label; ``place`` is the order of the files.

    With ``shared``, each file is read by a worker into a part, and the parts are taken in the order of the files, so
    that the table is the same.

    Raises:
        InputError: if a file or column is missing, or too many rows are malformed.
    """
    log, report = spec.interactions, LogReport()
    connection.execute(f"CREATE TABLE raw_events ({RAW})")
    if shared is None:
        name = load_events(connection, spec, work, report.faults, progress)
    else:
        name = _load_parts(connection, spec, work, report.faults, progress, shared)
    name = name if len(log.source.path) == 1 else "log"
    report.faults.check(log.max_bad_share, name)
    if (
        log.time
        and log.unit != "order"
        and (one(connection, "SELECT max(abs(time)) FROM raw_events") or 0) > _FAR_FUTURE
    ):
        raise InputError(
            f"{name}: times in column {shown(log.time)} lie beyond the year 5000 when read as unit '{log.unit}'; "
            "set unit to 'ms', 'us' or 'ns'"
        )
    if log.time and log.unit != "order":
        report.early, report.none, report.late = _implausible(connection)
    return report


def load_events(connection: Any, spec: Spec, work: Path, faults: Faults, progress: Progress) -> str:
    """Append the events of all files to ``raw_events``, in their order; returns the name of the last file."""
    name = "log"
    for relation in relations(connection, spec.interactions.source, spec.folder, work):
        progress(f"reading {relation.path.name}")
        name = relation.path.name
        select, fault = _select(relation, spec)
        load(connection, "raw_events", relation, select, fault, faults)
    return name


def _load_parts(connection: Any, spec: Spec, work: Path, faults: Faults, progress: Progress, shared: Shared) -> str:
    """The same by an engine: a part for each file."""
    names = files_of(spec.interactions.source, spec.folder)
    plan = {
        "spec": spec.to_dict(),
        "files": [name if is_address(name) else str(Path(name).resolve()) for name in names],
    }
    same = {"spec": plan["spec"], "memory_limit": shared.memory_limit}
    store = Store(str(work / "read"))
    prepare_parts(store, plan)
    progress(f"reading {len(names):,} files")
    job = Job(plan, shared.work, [{**same, "file": name} for name in plan["files"]])
    notes, _ = run_parts(store, job, shared.engine, lambda done: progress(f"read {done:,} of {len(names):,} files"))
    for note in notes:
        part = work / "read" / note["name"]
        with reading(part):
            connection.execute(f"INSERT INTO raw_events SELECT * FROM read_parquet({as_pattern(part)})")
        part.unlink()
        faults.add(Faults(**note["faults"]))
    return names[-1].replace("\\", "/").rpartition("/")[2]


def _implausible(connection: Any) -> tuple[int, int, int]:
    """The figures ``early``, ``none`` and ``late`` of the report."""
    every, early, none, late = connection.execute(
        f"SELECT count(*), count(*) FILTER (time < {_EARLY}), count(*) FILTER (time <= 0), "
        f"count(*) FILTER (time >= {_LATE}) FROM raw_events WHERE __fault IS NULL"
    ).fetchall()[0]
    return (int(early), 0, 0) if early == every else (0, int(none), int(late))


def _select(relation: Relation, spec: Spec) -> tuple[str, str]:
    """The columns of an event, and the text that says why a row cannot be used."""
    log, label = spec.interactions, spec.label
    user, item = (text_of(name, relation.require(name)) for name in (log.user, log.item))
    object_or = "no JSON object, or " if relation.format == "jsonl" else ""
    faults = [f"WHEN ({user}) IS NULL THEN '{object_or}no user'", f"WHEN ({item}) IS NULL THEN 'no item'"]
    time = "NULL"
    if log.time:
        time = seconds_of(log.time, relation.require(log.time), log.unit)
        expected = "a date" if log.unit == "iso" else "a number"
        faults.append(_fault(time, log.time, relation, expected))
    numbers = [log.value] if log.value else []
    positive = "NULL"
    if label is not None:
        column = label.column or log.value
        kind = relation.require(column)
        if label.at_least is not None:
            numbers.append(column)
            positive = f"{number_of(column, kind)} >= {label.at_least!r}"
        else:
            positive = _equals(column, kind, label)
            faults.append(_fault(positive, column, relation, "given"))
    for column in dict.fromkeys(numbers):
        number = number_of(column, relation.require(column))
        faults.append(_fault(number, column, relation, "a number"))
    return f"{user}, {item}, {time}, {positive}", f"CASE {' '.join(faults)} END"


def _fault(value: str, column: str, relation: Relation, expected: str) -> str:
    shown = f"coalesce('''' || left({text_of(column, relation.types[column])}, 40) || '''', 'missing')"
    return f"WHEN ({value}) IS NULL THEN {literal(column + ' is ')} || {shown} || {literal(', not ' + expected)}"


def _equals(column: str, kind: str, label: Label) -> str:
    if isinstance(label.equals, str):
        text = f"({text_of(column, kind)})"
        form = form_of_text(label.equals)
        if form == "booleans":
            return f"lower({text}) = {literal(label.equals.lower())}"
        return f"{canonical(text, form)} = {canonical(literal(label.equals), form)}"
    other = f"CASE WHEN ({text_of(column, kind)}) IS NOT NULL THEN false END"
    return f"coalesce({number_of(column, kind)} = {float(label.equals or 0)!r}, {other})"


def select_events(connection: Any, spec: Spec, report: LogReport, progress: Progress) -> None:
    """Select from ``raw_events`` into ``kept``: user and item as numbers in text order, only the events that stay.

    Raises:
        InputError: if no event is left.
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
        "CREATE TABLE kept AS SELECT u.code AS u, i.code AS i, time, label, e.rowid AS place "
        'FROM raw_events e JOIN raw_users u ON e."user" = u.id JOIN raw_items i ON e.item = i.id '
        f"WHERE {stays}"
    )
    connection.execute("DROP TABLE raw_events")
    events = one(connection, "SELECT count(*) FROM kept")
    if events == 0:
        raise InputError("no event is left: the label rule calls every one negative" if drop else "no event is left")
    progress("looking for repeated events")
    report.repeats = events - one(connection, "SELECT count(*) FROM (SELECT DISTINCT u, i FROM kept)")
    if report.repeats and log.duplicates != "keep":
        direction = "ASC" if log.duplicates == "first" else "DESC"
        ranked = f"row_number() OVER (PARTITION BY u, i ORDER BY time {direction}, place {direction})"
        _replace(connection, f"SELECT * FROM kept QUALIFY {ranked} = 1")
        report.repeats_dropped = report.repeats
    before = one(connection, "SELECT count(*) FROM kept")
    report.events = _core(connection, log.min_user_events, log.min_item_events, progress)
    report.core_dropped = before - report.events
    if report.events == 0:
        raise InputError(
            f"no event is left: no users with {log.min_user_events} events on items with {log.min_item_events}; "
            "lower min_user_events or min_item_events"
        )


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


def write_log(connection: Any, spec: Spec, folder: Path, num_users: int, progress: Progress) -> None:
    """Write offsets, items, times and labels from ``kept`` and the tables ``users`` and ``items`` (row, code).

    Events are in the order of user, time and file; where nothing orders a user's events, in one that is drawn: files
    are often sorted by item or by value, and their order would be learnt as if it were time. The draw is the digest of
    an event's place in the file, so that it is the same every time. Only `CHUNK` of them are in memory at once.
    """
    progress("sorting the log")
    place = f"md5('{ORDER_SEED}:' || place::VARCHAR), place" if spec.interactions.is_unordered else "place"
    connection.execute(
        "CREATE TABLE ordered AS SELECT u.row AS u, i.row AS i, floor(time)::BIGINT AS time, label::FLOAT AS label "
        "FROM kept JOIN users u ON kept.u = u.code JOIN items i ON kept.i = i.code "
        f"ORDER BY u.row, kept.time, {place}"
    )
    connection.execute("DROP TABLE kept")
    progress("writing the log")
    events = one(connection, "SELECT count(*) FROM ordered")
    columns: dict[str, tuple[str, Any]] = {"items": ("i", np.int64)}
    if spec.interactions.time and spec.interactions.unit != "order":
        columns["times"] = ("time", np.int64)
    if spec.label is not None and spec.label.keep == "all":
        columns["labels"] = ("label", np.float32)
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


def number_items(connection: Any, listed: bool) -> int:
    """Fill ``items`` (row, id, code) in text order, and return how many rows there are.

    They are those with a kept event, and when ``listed`` those of ``item_table`` that the log never had, or that the
    label rule left without events."""
    also = "UNION ALL SELECT __id, NULL FROM item_table WHERE __id NOT IN (SELECT id FROM raw_items)" if listed else ""
    connection.execute(
        f"CREATE TABLE items AS SELECT row_number() OVER (ORDER BY id) + {FIRST_KNOWN - 1} AS row, id, code "
        f"FROM (SELECT id, code FROM raw_items WHERE code IN (SELECT i FROM kept) {also})"
    )
    return int(one(connection, "SELECT count(*) FROM items")) + FIRST_KNOWN
