"""Judges a bundle again: the split of its run, on its data or on the events that it keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from twotower.core.errors import InputError, unknown_name
from twotower.data.dataset import Dataset
from twotower.data.identity import check_same_vocabulary
from twotower.evaluation.protocol import Protocol
from twotower.evaluation.result import Result
from twotower.evaluation.run import evaluate
from twotower.experiment.candidates import PAIRS, judge_pairs, pairs_of
from twotower.experiment.index_loss import IndexLoss, index_loss
from twotower.experiment.learn import learnt_log
from twotower.experiment.run import Run
from twotower.experiment.train import split_of
from twotower.serving.bundle import Bundle


class Judged(NamedTuple):
    """The figures of a bundle: of its model, and of its index where that is not exact."""

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
) -> tuple[Result, str]:
    """The figures of a bundle's model on a split, and what to call them; arguments and errors as of `judge_served`."""
    judged = judge_served(folder, data=data, split=split, ks=ks, with_index=False, include_seen=include_seen)
    return judged.result, judged.title


def judge_served(
    folder: Path,
    *,
    data: Path | None = None,
    split: str = "test",
    ks: tuple[int, ...] = (),
    with_index: bool = True,
    include_seen: bool | None = None,
) -> Judged:
    """The figures of a bundle on a split: what its model finds, and what an approximate index loses of it.

    Args:
        folder: the bundle.
        data: prepared data to judge on; None: the events that the bundle keeps, which are those it was trained from.
        split: "test" or "validation".
        ks: list lengths; empty: those of the run.
        with_index: whether an approximate index is judged too.
        include_seen: whether what a user has seen may be an answer; None: as ``evaluation.mask_seen`` of the run says.

    Raises:
        InputError: if the bundle is damaged, the split unknown, or the data another catalogue.
    """
    if split not in ("test", "validation"):
        raise unknown_name("split", split, ("test", "validation"))
    bundle = Bundle.load(folder)
    run = Run.load(bundle.folder / "run.toml")
    dataset = bundle.dataset if data is None else Dataset.load(data)
    if dataset.schema != bundle.schema:
        raise InputError(f"{data}: its users, items or features are not those that {folder} was trained on")
    if dataset.folder is not None and dataset is not bundle.dataset and (dataset.folder / "vocabulary").is_dir():
        both = folder / "vocabulary", dataset.folder / "vocabulary"
        check_same_vocabulary(*both, f"bundle {folder} and data {data}")
    evaluation = replace(run.evaluation, ks=ks) if ks else run.evaluation
    if include_seen is not None:
        evaluation = replace(evaluation, mask_seen=not include_seen)
    title = f"{run.model.name} on {dataset.name}"
    if run.data.split == PAIRS:
        if split == "validation":
            raise InputError(f"{folder}: trained on labelled pairs, whose validation is no ranking; judge the test")
        rows = pairs_of(run, dataset, with_lists=False)
        return Judged(judge_pairs(bundle.model, dataset, rows, ks=evaluation.ks).request, title)
    cut = split_of(run, dataset)
    protocol = Protocol(ks=evaluation.ks, split=split, mask_seen=evaluation.mask_seen)
    targets = cut.test if split == "test" else cut.validation
    result = evaluate(bundle.model, dataset, targets, protocol, train=learnt_log(run, cut))
    loss = None
    if with_index:
        loss = index_loss(bundle, dataset, targets, evaluation.ks, mask_seen=evaluation.mask_seen)
    return Judged(result, title, loss)
