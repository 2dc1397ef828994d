"""Whole run: split, train or fit, evaluate on the test, index, check the item vectors, write the bundle."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from twotower.core.errors import InputError
from twotower.core.lock import writing_alone
from twotower.data.dataset import Dataset
from twotower.data.pairs import PairSplit
from twotower.data.split import Split
from twotower.evaluation.result import Result
from twotower.experiment.build import Parts
from twotower.experiment.checks import Check, check_items, check_space
from twotower.experiment.contents import contents_of
from twotower.experiment.defaults import spelled_out, with_choice
from twotower.experiment.placement import pick_device, placed
from twotower.experiment.run import Run
from twotower.experiment.run_folder import Claim, check_resumable, check_same_data, note_finished
from twotower.experiment.several import check_alike
from twotower.experiment.stopped import best_so_far
from twotower.experiment.tasks import task_of
from twotower.index.registry import check_settings
from twotower.metrics.registry import check_metrics
from twotower.models.base import Model, OffersChoices
from twotower.models.encode import ItemStates, encode_known_items
from twotower.serving.bundle import check_target
from twotower.serving.card import CARD
from twotower.serving.collections import deleted_on_failure
from twotower.serving.contents import write_bundle
from twotower.towers.shared_table import unite
from twotower.training.callbacks import Callback, EpochRecord
from twotower.training.distributed import World
from twotower.training.interrupt import Stopped
from twotower.training.trackers.base import TrackedRun, Tracker, flat, tracked

log = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class Trained:
    """Hold what a run leaves in memory."""

    run: Run
    model: Model
    dataset: Dataset
    split: Split | PairSplit
    test: Result
    records: list[EpochRecord]
    """One for each epoch; empty for closed forms."""
    item_states: ItemStates
    """What the trained model makes of every known item, encoded once."""
    diagnosis: dict[str, Any] | None
    """The check of the item vectors; None for models without item vectors."""
    checks: list[Check] = field(default_factory=list)
    """One line on the space, one on the comparison with popularity; none for closed forms."""

    def __repr__(self) -> str:
        return f"Trained({self.run.model.name} on {self.dataset.name}: {self.test!r})"

    def _repr_html_(self) -> str:
        """Show the figures of the test as a table in a notebook."""
        return self.test._repr_html_()


def train(
    run: Run,
    *,
    to: Path | None = None,
    dataset: Dataset | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    parts: Parts | None = None,
    world: World | None = None,
    keep: bool = False,
) -> Trained:
    """Train by the whole run and write its bundle.

    Started by torchrun, the processes train as one: each calls this with the same arguments, rank 0 writes and checks
    the item vectors, and all return the model and its test.

    The run that is noted spells out every setting of the model, so that a version with other defaults opens the bundle
    all the same, and trains the same model again.

    Beside the bundle, the folder ``<to>.run`` holds ``run.toml``, ``train.jsonl`` (one record an epoch) and the
    checkpoint, from which a run of more epochs goes on.

    Args:
        run: what to do.
        to: folder of the bundle; None writes nothing.
        dataset: instead of ``run.data.path``, when it is in memory already.
        resume: go on from the checkpoint in ``<to>.run``, to more epochs where ``run`` has more; where there is none
            yet, start from nothing and say so.
        callbacks: told of epochs, beside the log; a `twotower.training.trackers.base.Tracker` of the test and the
            bundle's card, too.
        parts: loss and sampler handed over as objects, in place of those that the run names.
        world: the processes that train as one; None: that of this process.
        keep: after Ctrl-C, judge the best epoch so far and write its bundle, in place of raising `Stopped`.

    Raises:
        InputError: if the run asks for something that is not there, a resumed run is another run or has other data,
            ``to`` can hold no bundle, another process writes it, ``keep`` has nothing that says which epoch is best, or
            the ranks are not alike.
        ConnectionError: if another rank is gone, or does not answer.
        Stopped: after Ctrl-C, once the checkpoint is written.
    """
    world = world or World.current()
    with contextlib.ExitStack() as held:
        with world.together():
            check_settings(run.index.kind, run.index.settings)
            check_metrics()
            run = spelled_out(run)
            if keep and not run.training.evaluate_every:
                raise InputError("keep is for the best epoch by validation, but training.evaluate_every is 0")
            if keep and world.size > 1:
                raise InputError("keep is for a training of one process; on several, stop and go on with resume")
            device = pick_device(run.training.device, world)
            if to is not None:
                check_target(to)
                if not world.rank:
                    held.enter_context(writing_alone(to))
        return _train(run, to, dataset, device, world, resume=resume, callbacks=callbacks, parts=parts, keep=keep)


def _train(
    run: Run,
    to: Path | None,
    dataset: Dataset | None,
    device: torch.device,
    world: World,
    *,
    resume: bool,
    callbacks: Sequence[Callback],
    parts: Parts | None,
    keep: bool,
) -> Trained:
    with world.together():
        dataset = placed(dataset or Dataset.load(run.data.path), device, run)
        task = task_of(run, dataset)
        split = task.split  # refused, where it is, before anything is written
        folder = None if to is None else to.with_name(to.name + ".run")
        if folder is not None and resume:
            resume = check_resumable(folder, run)
        if folder is not None and resume:
            check_same_data(folder, dataset)
    check_alike(world, run, dataset)
    resume = world.first(resume)
    claim = Claim(None if world.rank else folder, run, dataset, resume=resume)
    trackers = [one for one in callbacks if isinstance(one, Tracker)]
    callbacks = [claim, *(one for one in callbacks if not world.rank or not isinstance(one, Tracker))]
    whole = tracked_run(run, dataset, folder, resume=resume)
    with contextlib.nullcontext() if world.rank else tracked(trackers, whole):
        stopped = False
        try:
            model, records = task.train(folder=folder, resume=resume, callbacks=callbacks, parts=parts, world=world)
        except Stopped:
            kept = best_so_far(run, dataset, folder) if keep and folder is not None else None
            if kept is None:
                raise
            (run, model, records), stopped = kept, True
            task.run = run
        items = encode_known_items(model, dataset)
        test = task.test(model, items=items)
        if isinstance(model, OffersChoices):
            run = with_choice(run, model)
        unite(model)
        if world.rank:
            return Trained(run, model, dataset, split, test, records, items, None)
        claim.made()  # closed forms have no training that would begin
        for tracker in trackers:
            tracker.describe(tracked_run(run, dataset, folder, resume=resume))
            tracker.tested(test.metrics)
        diagnosis = check_items(model, items, task.learnt)
        checks = [] if diagnosis is None else [check_space(diagnosis)]
        checks += task.checks(model, test)
        for check in checks:
            log.log(logging.INFO if check.fine else logging.WARNING, "%s: %s", run.model.name, check.text)
        if to is not None and folder is not None:
            contents = contents_of(run, model, dataset, items, test, diagnosis, events=task.learnt)
            with deleted_on_failure(contents.index):
                write_bundle(to, contents)
            if not stopped:
                note_finished(folder, run)
            for tracker in trackers:
                tracker.written(to / CARD)
    return Trained(run, model, dataset, split, test, records, items, diagnosis, checks)


def tracked_run(run: Run, dataset: Dataset, folder: Path | None, *, resume: bool) -> TrackedRun:
    """Return what trackers note of a run; ``folder`` is that beside its bundle."""
    return TrackedRun(
        title=f"{run.model.name} on {dataset.name}",
        toml=run.to_toml(),
        settings=flat(run.to_dict()),
        folder=folder,
        resume=resume,
    )
