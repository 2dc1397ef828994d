"""Evaluation of a saved bundle on the test or validation split of its run, with its own events or given data."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from twotower.core.errors import InputError, shown, unknown_name
from twotower.data.dataset import Dataset
from twotower.data.identity import check_same_vocabulary, stored_split
from twotower.data.log import Log
from twotower.data.split import Targets
from twotower.evaluation.result import Result
from twotower.experiment.index_loss import IndexLoss, index_loss
from twotower.experiment.labelled_pairs import PAIRS
from twotower.experiment.next_log import later
from twotower.experiment.placement import pick_device
from twotower.experiment.registrations import check_parts
from twotower.experiment.run import Run
from twotower.experiment.several import check_judged_alike
from twotower.experiment.tasks import task_of
from twotower.serving.bundle import Bundle
from twotower.training.distributed import World

log = logging.getLogger(__name__)


class Judged(NamedTuple):
    """Hold the figures of a bundle: of its model, and of its index where that is not exact."""

    result: Result
    title: str
    index_loss: IndexLoss | None = None


def judge_bundle(
    folder: Path,
    *,
    data: Path | None = None,
    split: str = "test",
    ks: tuple[int, ...] = (),
    include_seen: bool | None = None,
    device: str = "cpu",
) -> tuple[Result, str]:
    """Evaluate a bundle's model on a split and name the data; arguments and errors as of `judge_served`."""
    judged = judge_served(
        folder, data=data, split=split, ks=ks, with_index=False, include_seen=include_seen, device=device
    )
    return judged.result, judged.title


def judge_served(
    folder: Path,
    *,
    data: Path | None = None,
    split: str = "test",
    ks: tuple[int, ...] = (),
    with_index: bool = True,
    include_seen: bool | None = None,
    device: str = "cpu",
    world: World | None = None,
) -> Judged:
    """Evaluate a bundle on a split: what its model finds, and what an approximate index loses of it.

    Args:
        folder: the bundle.
        data: prepared data to judge on: those that the bundle was trained from, or a later log, whose events are to be
            found then (`twotower.experiment.next_log.later`); None: the events that the bundle keeps, which are those
            it was trained from.
        split: "test" or "validation"; a later log has a test alone.
        ks: list lengths; empty: those of the run.
        with_index: whether an approximate index is judged too.
        include_seen: whether what a user has seen may be an answer; None: as ``evaluation.mask_seen`` of the run says.
        device: where the model runs.
        world: the processes that judge together: each takes some of the users and returns the figures of all, and the
            first one judges the index. None: this one alone.

    Raises:
        InputError: if the bundle is damaged, the split unknown, the data of another catalogue, the device not there, or
            several processes were not started alike.
    """
    world = world or World()
    with world.together():
        asked = _asked(folder, data, split, ks, include_seen, pick_device(device, world, key="device"))
    check_judged_alike(world, asked.bundle, asked.dataset, f"split {split}, -k {asked.ks}, mask_seen {asked.mask_seen}")
    result = asked.judge(processes=world)
    if asked.targets is None or not with_index or world.rank:
        return Judged(result, asked.title)
    loss = index_loss(asked.bundle, asked.dataset, asked.targets, asked.ks, mask_seen=asked.mask_seen)
    return Judged(result, asked.title, loss)


class _Asked(NamedTuple):
    """Hold what is judged on what, read and checked."""

    bundle: Bundle
    dataset: Dataset
    targets: Targets | None
    ks: tuple[int, ...]
    mask_seen: bool
    title: str
    judge: Callable[..., Result]


def _asked(
    folder: Path, data: Path | None, split: str, ks: tuple[int, ...], include_seen: bool | None, device: torch.device
) -> _Asked:
    if split not in ("test", "validation"):
        raise unknown_name("split", split, ("test", "validation"))
    bundle = Bundle.load(folder, device)
    dataset = bundle.dataset if data is None else Dataset.load(data).to(bundle.device)
    rows = data is None or _same_rows(bundle, dataset)
    same = rows and (data is None or _same_events(bundle.dataset.log, dataset.log))
    if same:
        refuse_learnt(bundle, split)
    check_parts(folder, bundle.manifest)
    run = Run.load(bundle.folder / "run.toml")
    if include_seen is not None:
        run = replace(run, evaluation=replace(run.evaluation, mask_seen=not include_seen))
    evaluation = run.evaluation
    title = f"{run.model.name} on {dataset.name}"
    targets: Targets | None
    judge: Callable[..., Result]
    if same:
        dataset = _as_trained(bundle, dataset, run, data)
        task = task_of(run, dataset, with_lists=False)
        judge = partial(task.test, bundle.model, part=split, ks=ks)
        targets = task.targets(split)
    else:
        if split != "test":
            raise InputError(f"{data}: is a later log than {folder} was trained on, and has no {split} part")
        if run.data.split == PAIRS:
            raise InputError(f"{folder}: orders labelled pairs, and only those of the data it was trained on judge it")
        if rows:
            log.warning("%s: holds other events than %s was trained on, and is judged as a later log", data, folder)
        then = later(bundle, dataset)
        bundle, dataset, targets = then.bundle, then.dataset, then.targets
        judge = partial(then.judge, ks or evaluation.ks, mask_seen=evaluation.mask_seen)
    return _Asked(bundle, dataset, targets, ks or evaluation.ks, evaluation.mask_seen, title, judge)


def _as_trained(bundle: Bundle, dataset: Dataset, run: Run, data: Path | None) -> Dataset:
    """The data with the split that the bundle was trained with: another one holds out what the model has learnt."""
    kept = stored_split(bundle.dataset)
    if data is None or run.data.split or stored_split(dataset) == kept:
        return dataset
    log.warning(
        "%s: is split otherwise (%s) than %s was trained with (%s), and is judged on the latter: another split would "
        "hold out what the model has learnt",
        data,
        _said(stored_split(dataset)),
        bundle.folder,
        _said(kept),
    )
    return replace(dataset, manifest=dataset.manifest | {"split": kept})


def _said(split: dict[str, Any]) -> str:
    return ", ".join(
        [str(split["kind"]), *(f"{name} = {shown(value)}" for name, value in split.items() if name != "kind")]
    )


def _same_rows(bundle: Bundle, dataset: Dataset) -> bool:
    """Whether the users and items of data are those of the bundle, row by row."""
    if dataset.schema != bundle.schema:
        return False
    if dataset.folder is None or not (dataset.folder / "vocabulary").is_dir():
        return True
    try:
        check_same_vocabulary(bundle.folder / "vocabulary", dataset.folder / "vocabulary", "they")
    except InputError:
        return False
    return True


def _same_events(kept: Log, given: Log) -> bool:
    """Whether two logs hold the same events in the same order; a bundle of format 1 kept positives alone."""
    if kept.labels is None:
        given = given.positives()
    if len(kept.offsets) != len(given.offsets) or len(kept.items) != len(given.items):
        return False
    pairs = [(kept.offsets, given.offsets), (kept.items, given.items)]
    if kept.labels is not None:
        if given.labels is None:
            return False
        pairs.append((kept.labels, given.labels))
    return all(torch.equal(one.cpu(), other.cpu().to(one.dtype)) for one, other in pairs)


def refuse_learnt(bundle: Bundle, split: str) -> None:
    """Refuse a bundle whose model was fitted once more on all events: it has no test of its own.

    Raises:
        InputError: says which bundles can be judged in its place.
    """
    folder = bundle.folder
    if learnt := bundle.manifest.get("learnt"):
        instead = (
            "judge it on a later log, with --data"
            if "refresh" in bundle.manifest
            else f"judge those that 'twotower fit' kept of the ladder, in "
            f"{folder.with_name(folder.name + '.run') / 'models'}"
        )
        raise InputError(
            f"{folder}: its model has learnt from {learnt}, those of the {split} too, so no figure of it would tell "
            f"anything; {instead}"
        )
