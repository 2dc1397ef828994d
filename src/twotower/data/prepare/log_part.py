"""Work on parts of a log: the events of one file, then the events of some of its users, by a hash of their ids."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from twotower.core.engines.base import Task
from twotower.core.parts import writing_part
from twotower.data.prepare.database import database, literal, one, parquet
from twotower.data.prepare.log import RAW, LogReport, load_events, times_of
from twotower.data.prepare.read import Faults
from twotower.data.prepare.select import order_of, select_events
from twotower.data.prepare.spec import Spec
from twotower.data.prepare.values import canonical, signs_of, spelled

BUCKETS = 1 << 10
"""Into which a hash puts users; a part of users is a run of buckets."""

ITEMS, USERS, EVENTS = range(3)
"""Kinds of rows in a part of users."""

_ROWS = "kind UTINYINT, part INTEGER, number INTEGER, id VARCHAR, events BIGINT, time BIGINT, label FLOAT"
"""Of a part of users: its items and users in text order, with their kept events, then these events in their order."""


@contextlib.contextmanager
def _engine(task: Task) -> Iterator[tuple[Any, Path]]:
    """DuckDB for one part, and a folder for its files."""
    with (
        tempfile.TemporaryDirectory(prefix="twotower-") as name,
        database(Path(name), task["memory_limit"], in_memory=True) as engine,
    ):
        yield engine, Path(name)


def read_part(task: Task) -> None:
    """Read one file of the log: the same rows, in the order of the file, wherever and however often it is run.

    The part is the table of events as it stands, or, with ``by_user`` in the task, its good rows by bucket of users.
    """
    spec, faults = Spec.from_dict(task["spec"]), Faults()
    log = spec.interactions
    spec = replace(spec, interactions=replace(log, source=replace(log.source, path=(task["file"],))))
    with _engine(task) as (engine, work):
        engine.execute(f"CREATE TABLE raw_events ({RAW})")
        _, step = load_events(engine, spec, work, faults, lambda text: None)
        rows = one(engine, "SELECT count(*) FROM raw_events")
        counts: dict[str, Any] = {"faults": asdict(faults), "times": times_of(engine, step), "rows": rows}
        sql, group = "SELECT * FROM raw_events ORDER BY rowid", 122_880
        if task["by_user"]:
            for side in ("user", "item"):
                texts = f'SELECT "{side}" AS value FROM raw_events WHERE __fault IS NULL'
                counts[f"{side}s"] = signs_of(engine, texts)
            counts["duckdb"] = one(engine, "SELECT version()")
            user = spelled('"user"')
            bucket = f"(hash({user}) % {BUCKETS})::USMALLINT AS bucket"
            sql = (
                f"SELECT {bucket}, {task['part']} AS file, rowid AS place, * EXCLUDE (__fault) FROM raw_events "
                "WHERE __fault IS NULL ORDER BY bucket, rowid"
            )
            group = min(group, max(2048, rows // 64))  # a reader of some buckets reads little else
        with writing_part(task, counts) as path:
            engine.execute(f"COPY ({sql}) TO {literal(path)} (FORMAT parquet, ROW_GROUP_SIZE {group})")


def gather_part(task: Task) -> None:
    """Gather the events of the users of some buckets, and do to them what needs no other user.

    Ids become numbers, repeats and users with few events go, and what stays is put in its order.
    """
    spec, report = Spec.from_dict(task["spec"]), LogReport()
    first, end = task["buckets"]
    files = parquet(*(Path(task["folder"]) / file for file in task["files"]))
    user, item = (canonical(f'"{side}"', task["forms"][side]) for side in ("user", "item"))
    with _engine(task) as (engine, _):
        engine.execute(f"CREATE TABLE raw_events ({RAW}, place BIGINT)")
        engine.execute(
            f"INSERT INTO raw_events SELECT {user}, {item}, time, label, NULL, place + ({task['before']})[file + 1] "
            f"FROM {files} WHERE bucket >= {first} AND bucket < {end}"
        )
        select_events(engine, spec, report, lambda text: None, place="e.place")
        engine.execute(f"CREATE TABLE part ({_ROWS})")
        for kind, side, column in ((ITEMS, "items", "i"), (USERS, "users", "u")):
            engine.execute(
                f"INSERT INTO part SELECT {kind}, {task['part']}, code - 1, id, coalesce(n, 0), NULL, NULL "
                f"FROM raw_{side} LEFT JOIN (SELECT {column} AS code, count(*) AS n FROM kept GROUP BY ALL) "
                "USING (code) ORDER BY code"
            )
        engine.execute(
            f"INSERT INTO part SELECT {EVENTS}, {task['part']}, i - 1, NULL, NULL, floor(time)::BIGINT, label::FLOAT "
            f"FROM kept ORDER BY u, {order_of(spec)}"
        )
        left = {key: value for key, value in asdict(report).items() if key not in ("faults", "early")}
        with writing_part(task, {"report": left}) as path:
            engine.execute(f"COPY (SELECT * FROM part ORDER BY rowid) TO {literal(path)} (FORMAT parquet)")
