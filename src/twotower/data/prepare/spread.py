"""A log prepared by an engine: a part for each file, then one for each share of the users by a hash of their ids.

What a user's events need is done where they are; here the ids of all parts are numbered, and the events merged.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, NamedTuple

from twotower.core.address import is_address
from twotower.core.engines.base import Engine
from twotower.core.errors import InputError
from twotower.core.parts import Job, Note, prepare_parts, run_parts
from twotower.core.records import FIRST_KNOWN
from twotower.core.store import Store
from twotower.data.prepare.database import one, parquet, reading
from twotower.data.prepare.log import RAW, LogReport, Progress, Times, check_log
from twotower.data.prepare.log_part import BUCKETS, ITEMS, USERS, gather_part, read_part
from twotower.data.prepare.merge import write_merged
from twotower.data.prepare.read import Faults
from twotower.data.prepare.select import check_left, number_items
from twotower.data.prepare.source_files import files_of
from twotower.data.prepare.spec import Spec
from twotower.data.prepare.values import Signs

PART_EVENTS = 1 << 20
"""Events of a part of users, about."""

MOST_PARTS = 256
"""Of users: the merge has a file of each open."""


class Shared(NamedTuple):
    """Configure who does the parts."""

    engine: Engine
    memory_limit: str
    """Of each worker's DuckDB."""


def is_by_user(spec: Spec) -> bool:
    """Return whether users can be treated apart: an item's least number of events needs all of them, in turn."""
    return spec.interactions.min_item_events == 1


def read_shared(
    connection: Any, spec: Spec, work: Path, progress: Progress, shared: Shared
) -> tuple[LogReport, list[Note]]:
    """Read each file of the log into a part; returns what became of the rows, and the notes of the parts.

    Where users cannot be treated apart, the parts are put into ``raw_events`` in the order of the files, as one
    process does.

    Raises:
        InputError: if a file or column is missing, too many rows are malformed, or workers have another DuckDB.
    """
    names = files_of(spec.interactions.source, spec.folder)
    files = [name if is_address(name) else str(Path(name).resolve()) for name in names]
    plan = {"spec": spec.to_dict(), "files": files, "by_user": is_by_user(spec)}
    same = {"spec": plan["spec"], "by_user": plan["by_user"], "memory_limit": shared.memory_limit}
    store, report = Store(str(work / "read")), LogReport()
    prepare_parts(store, plan)
    progress(f"reading {len(files):,} files")
    job = Job(plan, read_part, [{**same, "file": file} for file in files])
    notes, _ = run_parts(store, job, shared.engine, lambda done: progress(f"read {done:,} of {len(files):,} files"))
    for note in notes:
        report.faults.add(Faults(**note["faults"]))
    far, steps, *counts = zip(*(note["times"] for note in notes), strict=True)
    times = Times(any(far), max(steps), *map(sum, counts))
    check_log(spec, report, names[-1].replace("\\", "/").rpartition("/")[2], times)
    if is_by_user(spec):
        if len(versions := {note["duckdb"] for note in notes}) > 1:
            raise InputError(f"workers have DuckDB {' and '.join(sorted(versions))}: install the same on all")
    else:
        connection.execute(f"CREATE TABLE raw_events ({RAW})")
        for note in notes:
            part = work / "read" / note["name"]
            with reading(part):
                connection.execute(f"INSERT INTO raw_events SELECT * FROM {parquet(part)}")
            part.unlink()
    return report, notes


class Spread:
    """Hold the events of a log as parts of files, and then of users.

    Args:
        connection: to the database.
        spec: the spec.
        report: what became of the rows so far; gathering fills in the rest.
        progress: is told what is being done.
        notes: of the parts of files.
        work: the folder in which they lie in ``read``.
        shared: who does the parts.
    """

    def __init__(
        self,
        connection: Any,
        spec: Spec,
        report: LogReport,
        progress: Progress,
        *,
        notes: list[Note],
        work: Path,
        shared: Shared,
    ) -> None:
        self.connection, self.spec, self.report, self.progress = connection, spec, report, progress
        self.notes, self.work, self.shared = notes, work, shared
        self.parts: list[Path] = []

    def ids(self, side: str) -> tuple[list[tuple[str, str]], list[Signs]]:
        """Return where the ids of one side lie in the database, and the signs of those that lie elsewhere."""
        return [], [Signs(*note[f"{side}s"]) for note in self.notes]

    def number(self, forms: dict[str, str]) -> dict[str, int]:
        """Gather the events of users and fill ``users`` and ``items``; returns how many rows both have.

        Args:
            forms: of the ids of each side, in which the parts of users write them.

        Raises:
            InputError: of a part; or if no event is left.
        """
        self._gather(forms)
        check_left(self.spec, self.report)
        number = number_gathered(self.connection, self.parts)
        return {"user": number, "item": number_items(self.connection, self.spec.items is not None, "events > 0")}

    def write(self, folder: Path, num_users: int) -> None:
        """Write the arrays of the log."""
        write_merged(self.connection, self.spec, self.parts, folder, num_users, self.progress)

    def _gather(self, forms: dict[str, str]) -> None:
        """Gather the events of users into parts, and count what became of them."""
        rows = [note["rows"] for note in self.notes]
        number = max(1, min(MOST_PARTS, -(-sum(rows) // PART_EVENTS)))
        plan = {"read": [note["sha256"] for note in self.notes], "forms": forms, "parts": number}
        same = {
            "spec": self.spec.to_dict(),
            "forms": forms,
            "folder": str((self.work / "read").resolve()),
            "files": [note["name"] for note in self.notes],
            "before": list(itertools.accumulate(rows[:-1], initial=0)),
            "memory_limit": self.shared.memory_limit,
        }
        cuts = [part * BUCKETS // number for part in range(number + 1)]
        job = Job(plan, gather_part, [{**same, "buckets": list(pair)} for pair in itertools.pairwise(cuts)])
        store = Store(str(self.work / "gathered"))
        prepare_parts(store, plan)
        self.progress(f"gathering users into {number:,} parts")
        gathered, _ = run_parts(
            store,
            job,
            self.shared.engine,
            lambda done: self.progress(f"gathered {done:,} of {number:,} parts of users"),
        )
        for note in gathered:
            for name, value in note["report"].items():
                setattr(self.report, name, getattr(self.report, name) + value)
        for note in self.notes:
            (self.work / "read" / note["name"]).unlink()
        self.parts = [self.work / "gathered" / note["name"] for note in gathered]


def number_gathered(connection: Any, parts: list[Path]) -> int:
    """Fill ``users`` (row, id, part, events) and ``raw_items`` (code, id, events); returns how many rows users have."""
    rows = parquet(*parts)
    connection.execute(
        f"CREATE TABLE users AS SELECT row_number() OVER (ORDER BY id) + {FIRST_KNOWN - 1} AS row, id, part, events "
        f"FROM {rows} WHERE kind = {USERS} AND events > 0"
    )
    connection.execute(
        "CREATE TABLE raw_items AS SELECT row_number() OVER () AS code, id, sum(events) AS events "
        f"FROM {rows} WHERE kind = {ITEMS} GROUP BY id"
    )
    return int(one(connection, "SELECT count(*) FROM users")) + FIRST_KNOWN
