"""Train missing cells of several tables side by side within a time limit, the most urgent first.

    python benchmarks/side_by_side.py order.toml --to runs/reproduce --limit 540 --jobs 32

``order.toml`` says what is wanted, in the order of its entries:

    [[cells]]
    table = "t2diff"
    data = "ml-1m"                # the name of the data set in the table
    prepared = "runs/ml-1m"       # where it lies
    rows = ["sasrec", "t2diff*"]  # patterns of names; default all
    seconds = 120                 # of one training; without it what the row's finished cells took, or 60
    mib = 4000                    # of a GPU's memory, at most

A row is tuned first, then trained on every seed, as by ``twotower reproduce``, which goes on from the same folder
(``TO/TABLE``). Of one entry a tuning run that holds up the most work starts first. Of what is left at the limit a
checkpoint is kept, at most a minute old, from which the next call goes on: so a training that would not end within the
limit is begun where no other one would, and one that is under way comes before those of its entry. Jobs share out the
GPUs that are there.

Many small trainings fill one GPU only if their kernels run at the same time: under NVIDIA's Multi-Process Service a
call finished 52 trainings on one H200, and 14 on the other without it (16 jobs each). Where one training fills the GPU
by itself it gains nothing, and small ones beside it wait: keep the two kinds apart.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import signal
import sys
import time
import tomllib
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import torch

from twotower.core.errors import InputError
from twotower.reproduce.study import TUNING_SEED, Cell, cells_of, choose, gpu_of_jobs, keep, measure_cell, seeded
from twotower.reproduce.tables import table_of

START = 12.0
"""Seconds of a training beside its epochs: data, evaluation, lists."""
USUAL = 60.0
"""Seconds of a training of which nothing is known."""
SLOWER = 1.2
"""How much longer than estimated a training may take."""
LARGEST = 120_000
"""MiB of one GPU that trainings may claim together."""


class Wanted(NamedTuple):
    """An entry of the order."""

    table: str
    data: str
    prepared: str
    rows: tuple[str, ...] = ("*",)
    seconds: float | None = None
    """Of one training; None: as a finished cell of the row, which may be of another machine, or 60."""
    mib: int = 4_000


class Ready(NamedTuple):
    """A training that can start now."""

    urgency: int
    cell: Cell
    seconds: float
    """That it may take."""
    holds_up: float
    """Seconds of trainings that wait for it."""
    mib: int
    under_way: bool

    def rank(self) -> tuple[float, ...]:
        """What is smaller starts first."""
        return self.urgency, not self.under_way, -self.holds_up, -self.seconds


@dataclass
class Worker:
    """A process that trains one cell after another on one GPU."""

    process: BaseProcess
    line: Connection
    gpu: str
    busy: Ready | None = None
    since: float = 0.0


def read_order(path: Path) -> list[Wanted]:
    """Read the entries of an order.

    Raises:
        InputError: if it cannot be read, or an entry lacks a key, has an unknown one or names no table.
    """
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))["cells"]
        order = [Wanted(**{**entry, "rows": tuple(entry.get("rows", ("*",)))}) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is no order of [[cells]]: {error}") from None
    for wanted in order:
        table_of(wanted.table)
    return order


def ready(order: Sequence[Wanted], to: Path) -> list[Ready]:
    """Return the cells that are missing and can start: tuning runs, and seeds of rows that are tuned."""
    found: dict[Path, Ready] = {}
    for urgency, wanted in enumerate(order):
        table, prepared, folder = table_of(wanted.table), Path(wanted.prepared), to / wanted.table
        rows, twins = table.variants(wanted.data), table.twins(wanted.data)
        for variant in (*rows, *twins):
            if not any(fnmatch.fnmatch(variant, pattern) for pattern in wanted.rows):
                continue
            base = twins[variant].of if variant in twins else variant
            choices, seeds = list(rows[base]), table.seeds_of(variant)
            tuning = [Cell(table.name, wanted.data, prepared, base, seeded(run, TUNING_SEED)) for run in choices]
            missing = [cell for cell in tuning if not cell.path(folder).is_file()] if len(choices) > 1 else []
            seconds = wanted.seconds or took(folder / wanted.data / base) or USUAL
            waiting = len(seeds)
            if not missing:
                chosen = choose(table, wanted.data, prepared, base, choices, folder)
                run = twins[variant].change(chosen) if variant in twins else chosen
                every = cells_of(table, wanted.data, prepared, variant, run, table.seeds)
                missing, waiting = [cell for cell in every if not cell.path(folder).is_file()], 0
            for cell in missing:
                begun = cell.unfinished(folder).is_dir()
                found.setdefault(cell.path(folder), Ready(urgency, cell, seconds, waiting * seconds, wanted.mib, begun))
    return sorted(found.values(), key=Ready.rank)


def took(row: Path) -> float | None:
    """Return the seconds of a row's longest finished training; None: there is none."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in row.glob("seed-*.json")]
    paces = [(r["metrics"].get("seconds_per_epoch"), r["curves"][-1]["epoch"]) for r in records if r["curves"]]
    return max((pace * epochs + START for pace, epochs in paces if pace), default=None)


def train(order: Sequence[Wanted], to: Path, *, limit: float, jobs: int) -> tuple[list[Cell], int]:
    """Train until the limit or until nothing is left; return what was finished, and how many failed."""
    started, done, failed = time.monotonic(), list[Cell](), set[Path]()
    gpus = gpu_of_jobs(jobs, torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    workers = [_worker(gpu, to) for gpu in gpus]
    todo: list[Ready] | None = None

    def place(cell: Cell) -> Path:
        return cell.path(to / cell.table)

    try:
        while (left := limit - (time.monotonic() - started)) > 0:
            if todo is None:
                todo = ready(order, to)
                taken = failed | {place(worker.busy.cell) for worker in workers if worker.busy}
                todo = [one for one in todo if place(one.cell) not in taken]
            for worker in workers:
                if worker.busy or not worker.process.is_alive():
                    continue
                used = sum(other.busy.mib for other in workers if other.busy and other.gpu == worker.gpu)
                fits = [one for one in todo if used + one.mib <= LARGEST]
                ends = (one for one in fits if one.under_way or one.seconds * SLOWER < left)
                if (first := next(ends, fits[0] if fits else None)) is None:
                    continue
                todo.remove(first)
                worker.busy, worker.since = first, time.monotonic()
                worker.line.send(first.cell)
            if not any(worker.busy for worker in workers):
                break
            for worker in workers:
                if not worker.busy:
                    continue
                cell, seconds = worker.busy.cell, time.monotonic() - worker.since
                if worker.line.poll():
                    fault = worker.line.recv()
                elif worker.process.is_alive():
                    continue
                else:
                    fault = "its process ended"
                worker.busy, todo = None, None
                if fault:
                    failed.add(place(cell))
                else:
                    done.append(cell)
                print(f"{time.monotonic() - started:.0f} {_name(cell)}: {fault or f'{seconds:.0f} s'}", flush=True)
            time.sleep(0.1)
    finally:
        for worker in workers:
            if worker.busy:
                print(f"cut off: {_name(worker.busy.cell)} after {time.monotonic() - worker.since:.0f} s", flush=True)
            worker.process.kill()
    print(f"{len(done)} finished, {len(failed)} failed, {len(ready(order, to)) - len(failed)} could go on", flush=True)
    return done, len(failed)


def _name(cell: Cell) -> str:
    return f"{cell.table} {cell.data} {cell.variant} seed {cell.run.training.seed}"


def _worker(gpu: str, to: Path) -> Worker:
    """Begin a process that sees one GPU."""
    context = get_context("spawn")
    mine, its = context.Pipe()
    process = context.Process(target=_work, args=(gpu, its, to), daemon=True)
    process.start()
    return Worker(process, mine, gpu)


def _work(gpu: str, line: Any, to: Path) -> None:
    """Train what comes down the line, and answer "" or what went wrong."""
    os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    torch.set_num_threads(1)
    while True:
        cell: Cell = line.recv()
        try:
            keep(cell, measure_cell(cell, table_of(cell.table).measure, to / cell.table), to / cell.table)
            line.send("")
        except Exception:
            line.send(traceback.format_exc())
        if gpu:
            torch.cuda.empty_cache()


def main() -> None:
    """Train what an order wants, or list it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("order", type=Path)
    parser.add_argument(
        "--to", type=Path, default=Path("runs/reproduce"), help="has a folder of results for each table"
    )
    parser.add_argument("--limit", type=float, default=3_600.0, help="seconds")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--list", action="store_true", help="say what could start now, and stop")
    given = parser.parse_args()
    try:
        order = read_order(given.order)
    except InputError as error:
        parser.error(str(error))
    if not given.list:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        sys.exit(1 if train(order, given.to, limit=given.limit, jobs=given.jobs)[1] else 0)
    for one in ready(order, given.to):
        print(f"{_name(one.cell)}: {one.seconds:.0f} s")


if __name__ == "__main__":
    main()
