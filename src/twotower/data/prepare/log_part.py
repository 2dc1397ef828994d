"""One file of a raw log, read by a worker: its events as a Parquet part, and what was wrong with its rows beside it."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from twotower.core.engines.base import Task
from twotower.core.parts import writing_part
from twotower.data.prepare.database import database, literal
from twotower.data.prepare.log import RAW, load_events
from twotower.data.prepare.read import Faults
from twotower.data.prepare.spec import Spec


def read_part(task: Task) -> None:
    """Read one file of the log: the same rows, in the order of the file, wherever and however often it is run."""
    spec, faults = Spec.from_dict(task["spec"]), Faults()
    log = spec.interactions
    spec = replace(spec, interactions=replace(log, source=replace(log.source, path=(task["file"],))))
    with tempfile.TemporaryDirectory(prefix="twotower-") as name, database(Path(name), task["memory_limit"]) as engine:
        engine.execute(f"CREATE TABLE raw_events ({RAW})")
        load_events(engine, spec, Path(name), faults, lambda text: None)
        counts: dict[str, Any] = {"faults": asdict(faults)}
        with writing_part(task, counts) as path:
            engine.execute(f"COPY (SELECT * FROM raw_events ORDER BY rowid) TO {literal(path)} (FORMAT parquet)")
