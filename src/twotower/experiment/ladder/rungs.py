"""Rung of the ladder: a model trained and evaluated, or read from the disk where an earlier call has done it."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from twotower.core.files import read_json, write_json
from twotower.data.dataset import Dataset
from twotower.data.split import Split
from twotower.evaluation.protocol import Protocol
from twotower.evaluation.result import Result
from twotower.evaluation.run import evaluate
from twotower.experiment.ladder.budget import TimeLimit
from twotower.experiment.recipes import default_run
from twotower.experiment.run import Data, Run
from twotower.experiment.train import train
from twotower.models.base import ClosedForm, Model
from twotower.models.registry import model_class
from twotower.serving.bundle import Bundle
from twotower.training.callbacks import Callback

METRIC = "ndcg@10"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rung:
    """Hold a model of the ladder, or a variant of one: evaluated, or left out."""

    name: str
    """As it is shown; that of a variant says what it changes."""
    model: str
    bundle: Path
    seconds: float = 0.0
    validation: Result | None = None
    test: Result | None = None
    records: list[dict[str, Any]] = field(default_factory=list)
    """One for each epoch; empty for closed forms."""
    short: bool = False
    """Whether its training, or the search for its setting, ended because time was up."""
    left_out: str = ""
    """Why it was not trained; empty: it was."""
    parts: tuple[Rung, ...] = ()
    """The two that a mixture is made of."""
    tries: int = 1
    """Values that a closed form was fitted with, to choose its setting."""


def is_closed(name: str) -> bool:
    """Return whether a model is fitted in one go."""
    return issubclass(model_class(name), ClosedForm)


def rung_run(model: str, data: Path, *, settings: Sequence[str] = (), mask_seen: bool) -> Run:
    """Return the default run of a model on prepared data, with ``settings`` such as "model.dropout=0.5" changed.

    Raises:
        InputError: if a setting is unknown.
    """
    run = replace(default_run(model).with_settings(list(settings)), data=Data(path=str(data)))
    return replace(run, evaluation=replace(run.evaluation, mask_seen=mask_seen))


def trained_rung(
    name: str, to: Path, run: Run, dataset: Dataset, *, seconds: float, callbacks: Sequence[Callback] = ()
) -> Rung:
    """Train a model, evaluate it, and write its bundle; resume from the checkpoint of a stopped call.

    Args:
        name: as it is shown.
        to: folder of the bundle.
        run: what to train.
        dataset: prepared.
        seconds: until a training is ended; a closed form is fitted once at least, and tries settings until then.
        callbacks: told of a training.
    """
    limit = TimeLimit(seconds)
    beside = to.with_name(to.name + ".run")
    start = time.perf_counter()
    trained = train(
        run,
        to=to,
        dataset=dataset,
        resume=(beside / "train.safetensors").is_file(),
        callbacks=[limit] if is_closed(run.model.name) else [limit, *callbacks],
    )
    assert isinstance(trained.split, Split)
    validation = judged(trained.model, run, trained.dataset, trained.split, "validation")
    took = time.perf_counter() - start
    tries = max(1, limit.tries)
    write_json(beside / "fit.json", {"seconds": round(took, 3), "short": limit.reached, "tries": tries})
    return Rung(
        name,
        run.model.name,
        to,
        took,
        validation,
        trained.test,
        [one.to_json() for one in trained.records],
        limit.reached,
        tries=tries,
    )


def judged(model: Model, run: Run, dataset: Dataset, split: Split, part: str) -> Result:
    """Return the figures of a model on one part of the split; for the test with popularity and slices."""
    protocol = Protocol(ks=run.evaluation.ks, split=part, mask_seen=run.evaluation.mask_seen)
    if part == "validation":
        return evaluate(model, dataset, split.validation, protocol)
    return evaluate(model, dataset, split.test, protocol, train=split.train)


def stored(name: str, to: Path, run: Run, dataset: Dataset, split: Split) -> Rung:
    """Return a rung that an earlier call has finished."""
    model = Bundle.load(to, dataset.device).model
    beside = to.with_name(to.name + ".run")
    note: dict[str, Any] = read_json(beside / "fit.json") if (beside / "fit.json").is_file() else {}
    lines = beside / "train.jsonl"
    records = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()] if lines.is_file() else []
    figures = [judged(model, run, dataset, split, part) for part in ("validation", "test")]
    took, short = float(note.get("seconds", 0.0)), bool(note.get("short", False))
    tries = max(1, int(note.get("tries", 1)))
    return Rung(name, run.model.name, to, took, figures[0], figures[1], records, short, tries=tries)


def forget(folder: Path) -> None:
    """Remove what an earlier ladder left in ``folder``."""
    if folder.is_dir() and any(folder.iterdir()):
        log.warning("%s: what an earlier fit had done is dropped; --resume would have gone on", folder)
        shutil.rmtree(folder)
