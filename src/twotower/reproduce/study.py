"""Cells of a table: each variant, tuned on one seed's validation data, then run on every seed.

Finished work is kept, and a training that was stopped goes on from its checkpoint.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from multiprocessing import active_children, get_context
from multiprocessing.queues import Queue
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.files import read_json, replacing_file, write_json
from twotower.data.dataset import Dataset
from twotower.experiment.placement import pick_device
from twotower.experiment.run import Run
from twotower.training.callbacks import EpochRecord

TUNING_SEED = 0
"""The seed whose validation data picks among a variant's choices; the table's own seeds start at 1."""


class Measured(NamedTuple):
    """Hold the result of one training: a row of raw results."""

    validation: float
    """What choices are picked by; more is better."""
    metrics: dict[str, float]
    """On the test, and costs such as "seconds_per_epoch"."""
    curves: list[EpochRecord]
    """One record an epoch."""
    per_user: dict[str, Tensor]
    """Test metrics user by user, in the same order for every variant; empty where there are none. ``users`` beside them
    (whole numbers, ascending) says who they are, where every seed asks other users."""
    drawn: Mapping[str, Tensor] = {}
    """What a picture of this training is drawn from; mostly nothing."""


Measure = Callable[[Run, Dataset, Path | None], Measured]
"""Trains a run on a data set and judges it: a function of a module, so that other processes find it. The folder takes
the training's checkpoint, from which it goes on where there is one; None: none is kept."""


class Twin(NamedTuple):
    """Describe a row that trains what another row chose, changed; it tunes nothing itself."""

    of: str
    """The row whose choice it takes."""
    change: Callable[[Run], Run]


@dataclass(frozen=True)
class Table:
    """Describe one table of a paper.

    ``variants`` gives, for a data set's name, the rows of the table: under each name the runs to choose from (one:
    there is nothing to tune). ``measure`` trains and judges one run; it must be a function of a module, since other
    processes call it too.
    """

    name: str
    title: str
    data: tuple[str, ...]
    """Data sets that it is made for, by the names that `twotower.data.sources` knows; a category after a space."""
    variants: Callable[[str], Mapping[str, Sequence[Run]]]
    measure: Measure
    reference: str
    """The variant that others are tested against."""
    columns: tuple[str, ...]
    """Metrics shown, the first one first."""
    seeds: int = 5
    """Trainings of each variant, where the caller asks for no other number."""
    fewer: Mapping[str, int] = field(default_factory=dict)
    """Variants that are trained on so many seeds at most."""
    beside: Callable[[Mapping[str, float], Mapping[str, float]], dict[str, float]] = lambda own, reference: {}
    """Further metrics, from a training's own and those of the reference under the same seed."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """What has to be said of a variant, written below the table."""
    twins: Callable[[str], Mapping[str, Twin]] = lambda data: {}
    """Rows, for a data set's name, that train another row's choice under a change, such as another order of ties."""
    views: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Rows that need no training of their own: a name to a variant and the prefix of its metrics that such a row shows
    without it."""
    extras: Callable[[Table, Mapping[str, Path], Mapping[str, Mapping[str, Run]], Path], list[Path]] | None = None
    """Writes further pages and pictures once all cells are there: table, prepared folders, chosen runs, folder."""

    def possible_runs(self, data: str) -> dict[str, list[Run]]:
        """Return under each row's name, twins too, every run that it may be trained with."""
        rows = {variant: list(runs) for variant, runs in self.variants(data).items()}
        twins = {name: [twin.change(run) for run in rows[twin.of]] for name, twin in self.twins(data).items()}
        return rows | twins

    def seeds_of(self, variant: str, wanted: int | None = None) -> range:
        """Return the seeds of a variant for ``wanted`` seeds; None: the table's number."""
        count = self.seeds if wanted is None else wanted
        return range(1, min(count, self.fewer.get(variant, count)) + 1)


class Cell(NamedTuple):
    """Describe one training of a table."""

    table: str
    data: str
    prepared: Path
    variant: str
    run: Run

    def path(self, folder: Path) -> Path:
        """Return the path of its result; the name changes with the settings, so that no stale result is used."""
        run = replace(
            self.run, data=replace(self.run.data, path=""), training=replace(self.run.training, device="auto")
        )
        digest = hashlib.sha256(run.to_toml().encode()).hexdigest()[:10]
        return folder / self.data / self.variant / f"seed-{self.run.training.seed}-{digest}.json"

    def unfinished(self, folder: Path) -> Path:
        """Return the folder of its checkpoint, which is there from the first one until the result is."""
        return self.path(folder).with_suffix(".run")

    def drawn(self, folder: Path) -> Path:
        """Return the path of the tensors that its picture is drawn from."""
        return self.path(folder).with_suffix(".drawn.safetensors")


def seeded(run: Run, seed: int) -> Run:
    """Return the run under another seed; a split that is drawn by a seed of its own is drawn by this one too."""
    data = run.data
    if "seed" in data.split_options:
        data = replace(data, split_options={**data.split_options, "seed": seed})
    return replace(run, data=data, training=replace(run.training, seed=seed))


def run_table(
    table: Table,
    data: Mapping[str, Path],
    folder: Path,
    *,
    seeds: int | None = None,
    jobs: int = 1,
    only: Sequence[str] = (),
    device: str = "auto",
    notice: Callable[[str], None] = lambda text: None,
) -> dict[str, dict[str, Run]]:
    """Train what is missing and return the chosen run of every variant by data set.

    Args:
        table: what to run.
        data: prepared folders by the data set's name.
        folder: takes one file a cell; a stopped table goes on with what is missing, also within a training.
        seeds: runs of each variant; None: the table's number.
        jobs: trainings at a time, each in a process of its own; the processes share out the GPUs.
        only: variants to run; empty: all.
        device: where models run.
        notice: told of each finished cell.

    Raises:
        InputError: if a variant is unknown or ``seeds`` or ``jobs`` is below 1.
    """
    count = table.seeds if seeds is None else seeds
    if count < 1 or jobs < 1:
        raise InputError(f"reproduce {table.name}: seeds and jobs must be at least 1, got {count} and {jobs}")
    rows = {
        name: {
            variant: [replace(run, training=replace(run.training, device=device)) for run in runs]
            for variant, runs in _rows(table, name, only).items()
        }
        for name in data
    }
    tuning = [
        Cell(table.name, name, data[name], variant, seeded(run, TUNING_SEED))
        for name, variants in rows.items()
        for variant, choices in variants.items()
        if len(choices) > 1
        for run in choices
    ]
    _train(tuning, table.measure, folder, jobs, notice)
    chosen = {
        name: with_twins(
            table,
            name,
            {variant: choose(table, name, data[name], variant, choices, folder) for variant, choices in part.items()},
            only,
        )
        for name, part in rows.items()
    }
    cells = [
        cell
        for name, part in chosen.items()
        for variant, run in part.items()
        for cell in cells_of(table, name, data[name], variant, run, count)
    ]
    _train(sorted(cells, key=lambda cell: cell.run.training.seed), table.measure, folder, jobs, notice)
    return chosen


def cells_of(table: Table, name: str, prepared: Path, variant: str, run: Run, seeds: int) -> list[Cell]:
    """Return the trainings of a chosen run, one a seed."""
    return [Cell(table.name, name, prepared, variant, seeded(run, seed)) for seed in table.seeds_of(variant, seeds)]


def choose(table: Table, name: str, prepared: Path, variant: str, choices: Sequence[Run], folder: Path) -> Run:
    """Return the choice whose tuning run was best on validation data."""
    if len(choices) == 1:
        return choices[0]
    cells = [Cell(table.name, name, prepared, variant, seeded(run, TUNING_SEED)) for run in choices]
    found = [read_json(cell.path(folder))["validation"] for cell in cells]
    return choices[max(range(len(choices)), key=found.__getitem__)]


def with_twins(table: Table, name: str, chosen: Mapping[str, Run], only: Sequence[str] = ()) -> dict[str, Run]:
    """Return the chosen runs and those of their twins; ``only`` leaves out what was chosen for a twin's sake."""
    twins = {twin: made.change(chosen[made.of]) for twin, made in table.twins(name).items() if made.of in chosen}
    return {variant: run for variant, run in {**chosen, **twins}.items() if not only or variant in only}


def _rows(table: Table, name: str, only: Sequence[str]) -> dict[str, Sequence[Run]]:
    """The rows to choose for: those that are wanted, and those whose twins are."""
    variants, twins = dict(table.variants(name)), table.twins(name)
    known = {**variants, **twins}
    if unknown := set(only) - set(known):
        raise InputError(f"reproduce {table.name}: no variant {sorted(unknown)[0]!r}; there are {', '.join(known)}")
    wanted = {twins[variant].of if variant in twins else variant for variant in only}
    return {variant: runs for variant, runs in variants.items() if not only or variant in wanted}


def _train(cells: Sequence[Cell], measure: Measure, folder: Path, jobs: int, notice: Callable[[str], None]) -> None:
    missing = [cell for cell in cells if not cell.path(folder).is_file()]
    for done, (cell, measured) in enumerate(_measured(missing, measure, folder, jobs), start=1):
        keep(cell, measured, folder)
        notice(
            f"{done}/{len(missing)} {cell.data} {cell.variant} seed {cell.run.training.seed}: {measured.validation:.4f}"
        )


def _measured(cells: Sequence[Cell], measure: Measure, folder: Path, jobs: int) -> Iterator[tuple[Cell, Measured]]:
    if jobs == 1 or len(cells) < 2:
        for cell in cells:
            yield cell, measure_cell(cell, measure, folder)
        return
    context = get_context("spawn")
    gpus: Queue[str] = context.Queue()
    jobs = min(jobs, len(cells))
    for gpu in gpu_of_jobs(jobs, torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")):
        gpus.put(gpu)
    others = set(active_children())
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_see_one_gpu, initargs=(gpus,)) as pool:
        try:
            with _ctrl_c_held_back():
                running = {pool.submit(measure_cell, cell, measure, folder): cell for cell in cells}
            for done in as_completed(running):
                yield running[done], done.result()
        except BaseException:  # Ctrl-C too: what runs is not waited for, and what waits is not begun
            for worker in set(active_children()) - others:
                worker.kill()  # it writes nothing; after a milder signal it would begin what is queued
            pool.shutdown(cancel_futures=True)
            raise


@contextlib.contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    """Ctrl-C waits for the end of the block; processes that are started within it never hear of it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows has no masks: Ctrl-C goes to every process there
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def gpu_of_jobs(jobs: int, gpus: int, visible: str | None) -> list[str]:
    """Return each process's ``CUDA_VISIBLE_DEVICES``: the present GPUs in turn; "" where none is.

    Examples:
        >>> gpu_of_jobs(3, 2, None)
        ['0', '1', '0']
    """
    names = visible.split(",")[:gpus] if visible else [str(gpu) for gpu in range(gpus)]
    return [names[job % gpus] if gpus else "" for job in range(jobs)]


def _see_one_gpu(gpus: Queue[str]) -> None:
    """Begin a process: what it calls "cuda" is the next GPU of the queue."""
    os.environ["CUDA_VISIBLE_DEVICES"] = gpus.get()


def measure_cell(cell: Cell, measure: Measure, folder: Path) -> Measured:
    """Train and evaluate one cell by its table's function, in whatever process.

    Its checkpoints stand in ``folder`` until `keep` has written the result.
    """
    dataset = Dataset.load(cell.prepared).to(pick_device(cell.run.training.device))
    return measure(cell.run, dataset, cell.unfinished(folder))


def seconds_since(started: float, records: Sequence[EpochRecord]) -> float:
    """Return the wall seconds of a training; of one that went on from a checkpoint at least those of its epochs."""
    return max([time.perf_counter() - started, *(record.seconds for record in records[-1:])])


def keep(cell: Cell, measured: Measured, folder: Path) -> None:
    """Write a finished cell: values of users, then the record that makes it count as done; drop its checkpoint."""
    path = cell.path(folder)
    if measured.per_user:
        with replacing_file(path.with_suffix(".safetensors")) as partial:
            kept = {
                name: value.float() if value.is_floating_point() else value for name, value in measured.per_user.items()
            }
            save_file({name: value.contiguous() for name, value in kept.items()}, partial)
    if measured.drawn:
        with replacing_file(cell.drawn(folder)) as partial:
            save_file({name: value.cpu().contiguous() for name, value in measured.drawn.items()}, partial)
    write_json(
        path,
        {
            "table": cell.table,
            "data": cell.data,
            "variant": cell.variant,
            "seed": cell.run.training.seed,
            "validation": measured.validation,
            "metrics": measured.metrics,
            "curves": [record.to_json() for record in measured.curves],
            "run": cell.run.to_toml(),
        },
    )
    shutil.rmtree(cell.unfinished(folder), ignore_errors=True)
