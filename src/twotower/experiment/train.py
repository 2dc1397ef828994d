"""Whole run: split, train or fit, evaluate on the test, index, check the item vectors, write the bundle."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from twotower.core.devices import find_device
from twotower.core.errors import InputError
from twotower.core.files import read_json, replacing_file, write_json
from twotower.core.lock import writing_alone
from twotower.data.dataset import Dataset
from twotower.data.identity import fingerprint
from twotower.data.log import Log
from twotower.data.pairs import PairSplit
from twotower.data.split import Split
from twotower.evaluation.result import Result
from twotower.experiment.build import Parts
from twotower.experiment.checks import Check, check_space
from twotower.experiment.index_users import show_users
from twotower.experiment.placement import placed
from twotower.experiment.registrations import own_parts
from twotower.experiment.run import Run
from twotower.experiment.several import check_alike
from twotower.experiment.stopped import NOTE, STATE, best_so_far, check_longer, is_finished, note_finished
from twotower.experiment.tasks import task_of
from twotower.index.registry import build_index, check_settings, index_parameters, serves
from twotower.metrics.registry import check_metrics
from twotower.models.base import ClosedForm, Model, OffersChoices
from twotower.models.encode import ItemStates, encode_known_items, inference
from twotower.models.registry import all_settings
from twotower.serving.bundle import check_target
from twotower.serving.card import CARD
from twotower.serving.collections import deleted_on_failure
from twotower.serving.contents import Contents, write_bundle
from twotower.serving.filters.fill import fill_columns
from twotower.towers.shared_table import unite
from twotower.training.callbacks import Callback, EpochRecord, Silent
from twotower.training.distributed import World
from twotower.training.interrupt import Stopped
from twotower.training.trackers.base import NOTES, TrackedRun, Tracker, flat, tracked

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


def contents_of(
    run: Run,
    model: Model,
    dataset: Dataset,
    items: ItemStates,
    test: Result | None,
    diagnosis: dict[str, Any] | None,
    *,
    events: Log,
    learnt: str = "",
    refresh: dict[str, Any] | None = None,
) -> Contents:
    """Return what the bundle of a trained model is written from, with the run's index built over the items.

    Args:
        run: with all its settings written out.
        model: trained.
        dataset: that it learnt from; all its events become the histories.
        items: what the model makes of every known item.
        test: whose metrics are noted.
        diagnosis: of the item vectors.
        events: that the model learnt from.
        learnt: in words, where that is not what the run says.
        refresh: of a refreshed bundle: where it came from, and its verdict.
    """
    index = None
    if serves(run.index.kind, inner_product=model.inner_product):
        index = build_index(run.index.kind, run.index.settings, model)
        show_users(index, model, dataset, dataset.log.positives())
        table = None if dataset.folder is None else dataset.folder / "vocabulary" / "items.parquet"
        with deleted_on_failure(index):
            with inference(model):
                index.build(items.states, items.ids)
            fill_columns(index, table, dataset.schema.num_items, items.ids)
    return Contents(
        model=model,
        model_name=run.model.name,
        model_parameters=run.model.settings,
        dataset=dataset,
        items=items,
        run_toml=run.to_toml(),
        parts=own_parts(run),
        metrics={} if test is None else test.metrics,
        intervals={} if test is None else test.bounds(),
        histories=dataset.log,
        diagnosis=diagnosis,
        index=index,
        learnt=learnt,
        events=events,
        refresh=refresh,
    )


def spelled_out(run: Run) -> Run:
    """Return the run with the defaults of its model and its index written down."""
    model, index = run.model, run.index
    return replace(
        run,
        model=replace(model, settings=all_settings(model.name, model.settings)),
        index=replace(index, settings=index_parameters(index.kind) | index.settings),
    )


def with_choice(run: Run, model: OffersChoices) -> Run:
    """Return the run with the value that its model settled on, so that the same run again gives the same model."""
    settings = run.model.settings | {model.choice: getattr(model, model.choice)}
    return replace(run, model=replace(run.model, settings=settings))


def pick_device(name: str, world: World | None = None, *, key: str = "training.device") -> torch.device:
    """Return the device of a run; "auto" takes CUDA where there is some. Several ranks take a GPU each.

    Args:
        name: of the device.
        world: the processes; None: this one alone.
        key: what the name was given by, for errors.

    Raises:
        InputError: if the name is no device, or the device is not there.
    """
    world = world or World()
    if world.size > 1 and name in ("auto", "cuda") and torch.cuda.is_available():
        gpus = torch.cuda.device_count()
        if world.local_rank >= gpus:
            raise InputError(
                f"rank {world.rank} is process {world.local_rank} of its machine, which has {gpus} GPU(s): start as "
                f"many processes as there are GPUs, or set {key} to 'cpu'"
            )
        torch.cuda.set_device(world.device)
        return world.device
    if name.startswith("cuda:") and world.size > 1:
        raise InputError(f"{key} is '{name}' on {world.size} ranks: write 'cuda', and each takes one of its own")
    return find_device(name, key)


def check_items(model: Model, items: ItemStates, learnt: Log) -> dict[str, Any] | None:
    """Diagnose the item vectors, where the model has vectors of at least two numbers."""
    states = items.states
    if not model.has_vectors or isinstance(model, ClosedForm) or not isinstance(states, Tensor) or states.shape[1] < 2:
        return None
    from twotower.diagnosis import diagnose

    popularity = learnt.positives().items.bincount(minlength=model.schema.num_items).cpu()[items.ids.cpu()]
    return diagnose(states.cpu(), popularity=popularity, seed=0).to_json()


def check_resumable(folder: Path, run: Run) -> bool:
    """Return whether there is a checkpoint to resume from, of the run that its folder notes, or of fewer epochs.

    Raises:
        InputError: if the run differs otherwise.
    """
    note = folder / "run.toml"
    if not (folder / STATE).is_file():
        log.warning("%s: no checkpoint to resume from, so training starts from nothing", folder)
        return False
    check_longer(note, spelled_out(Run.load(note)), spelled_out(run))
    return True


def check_same_data(folder: Path, dataset: Dataset) -> None:
    """Refuse to resume with other data than those noted in the folder, by content.

    Raises:
        InputError: if they are others.
    """
    if not (folder / NOTE).is_file():
        log.warning("%s: does not note its data (an older twotower wrote it); it is taken to be the same", folder)
    elif read_json(folder / NOTE).get("fingerprint") != fingerprint(dataset):
        raise InputError(
            f"{folder}: its checkpoint was made with other data than '{dataset.name}' is now; prepare the data as they "
            "were, or train without --resume"
        )


class Claim(Silent):
    """Write run.toml when training starts.

    An invalid run fails before that, so an older checkpoint survives.

    Args:
        folder: of the run; None: there is nothing to note.
        run: what is trained.
        dataset: what it learns from.
        resume: whether the run goes on from the checkpoint in its folder, which then stays.
    """

    def __init__(self, folder: Path | None, run: Run, dataset: Dataset, *, resume: bool = False) -> None:
        self.folder, self.run, self.dataset, self.resume = folder, run, dataset, resume

    def started(self, epochs: int, steps_per_epoch: int, step: int) -> None:
        """Write the run when training starts: the first one, where a last fit follows."""
        self.made()

    def made(self) -> None:
        """Write the run, unless that is done; files of an earlier training there are removed."""
        folder, self.folder = self.folder, None
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        if self.resume and spelled_out(Run.load(folder / "run.toml")) == self.run:
            return
        for checkpoint in folder.glob("*.safetensors"):
            if self.resume and checkpoint.name == STATE:
                continue  # the last fit of fewer epochs goes, the state that more of them go on from stays
            if not is_finished(folder):
                log.warning("%s: what an earlier training had done is dropped; --resume would have gone on", checkpoint)
            checkpoint.unlink()
        if not self.resume:
            (folder / NOTES).unlink(missing_ok=True)
        write_json(folder / NOTE, {"name": self.dataset.name, "fingerprint": fingerprint(self.dataset)})
        with replacing_file(folder / "run.toml") as partial:
            partial.write_text(self.run.to_toml(), encoding="utf-8")
