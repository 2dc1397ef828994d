"""The models of the ladder, each trained with its default run and judged; those done already are read from disk."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from twotower.core.errors import InputError
from twotower.core.files import read_json, write_json
from twotower.core.records import FIRST_KNOWN
from twotower.data.dataset import Dataset
from twotower.data.split import Split
from twotower.evaluation.protocol import Protocol
from twotower.evaluation.result import Result
from twotower.evaluation.run import evaluate
from twotower.experiment.ladder.budget import Budget, TimeLimit, clock
from twotower.experiment.recipes import default_run
from twotower.experiment.run import Data, Run
from twotower.experiment.train import split_of, train
from twotower.models.base import ClosedForm, Model
from twotower.models.registry import model_class
from twotower.serving.bundle import Bundle
from twotower.training.callbacks import Callback, Record

LADDER = ("popularity", "item_cosine", "item_lists", "ease", "two_tower", "sasrec")
"""The models that `twotower fit` tries, simplest first: where the difference is noise the earlier one is taken. Another
joins by its name; closed forms come before those that are trained."""

METRIC = "ndcg@10"
LEAST_SECONDS = 3.0
"""With less than this a model is not trained at all."""

_EASE_PAIRS_A_SECOND = 2e10
"""Cubed items that one solution of EASE takes on in a second, on a slow core."""
_EASE_SOLUTIONS = 5
"""Solved so often while its penalty is chosen."""

log = logging.getLogger(__name__)

Watch = Callable[[str], Sequence[Callback]]
"""Callbacks for a model's training, by its name."""


@dataclass(frozen=True)
class Rung:
    """A model of the ladder: judged, or left out."""

    name: str
    bundle: Path
    seconds: float = 0.0
    validation: Result | None = None
    test: Result | None = None
    records: list[Record] = field(default_factory=list)
    """One for each epoch; empty for closed forms."""
    short: bool = False
    """Whether its training ended because time was up."""
    left_out: str = ""
    """Why it was not trained; empty: it was."""


def is_closed(name: str) -> bool:
    """Whether a model is fitted in one go."""
    return issubclass(model_class(name), ClosedForm)


def rung_run(name: str, data: Path, *, mask_seen: bool) -> Run:
    """The default run of a model on prepared data."""
    run = replace(default_run(name), data=Data(path=str(data)))
    return replace(run, evaluation=replace(run.evaluation, mask_seen=mask_seen))


def climb(
    dataset: Dataset,
    folder: Path,
    budget: Budget,
    *,
    mask_seen: bool = True,
    watch: Watch = lambda name: (),
    tell: Callable[[str], None] = lambda text: None,
    done: Callable[[Rung], None] = lambda rung: None,
) -> None:
    """Train the ladder in ``folder``: a bundle a model, that of an earlier call is taken as it is.

    Closed forms come first and are fitted whatever the budget, save where the size of the catalogue says that one takes
    far more. The others share what is left evenly, with one share more for the last fit of the winner.

    Args:
        dataset: prepared, with a folder.
        folder: of the bundles.
        budget: of the whole ladder and the last fit.
        mask_seen: whether answers leave out what the user has seen.
        watch: further callbacks.
        tell: hears which model begins, and how long it may take.
        done: hears each rung.

    Raises:
        KeyboardInterrupt: after Ctrl-C; the checkpoint of a training is kept, and goes on with the next call.
    """
    split = split_of(rung_run(LADDER[0], dataset.folder or Path(), mask_seen=mask_seen), dataset)
    for place, name in enumerate(LADDER):
        to = folder / name
        run = rung_run(name, dataset.folder or Path(), mask_seen=mask_seen)
        if (to / "manifest.json").is_file():
            done(stored(name, to, run, dataset, split))
            continue
        trained_ones = [other for other in LADDER[place:] if not is_closed(other)]
        share = budget.left / (len(trained_ones) + 1) if trained_ones else budget.left
        why = _left_out(name, dataset, budget, share)
        if why:
            done(Rung(name, to, left_out=why))
            continue
        tell(f"{name}: {clock(budget.left)} left" + ("" if is_closed(name) else f", at most {clock(share)} for it"))
        try:
            done(_trained(name, to, run, dataset, share, watch(name)))
        except InputError as error:
            done(Rung(name, to, left_out=str(error)))


def _left_out(name: str, dataset: Dataset, budget: Budget, share: float) -> str:
    cls = model_class(name)
    if cls.batches == "sequences" and not dataset.is_ordered:
        return "it learns from order, and the log has none; name a time column"
    if not is_closed(name):
        return "" if share >= LEAST_SECONDS else "the budget leaves no time to train it; raise --budget"
    items = dataset.schema.num_items - FIRST_KNOWN
    needed = _EASE_SOLUTIONS * items**3 / _EASE_PAIRS_A_SECOND if name == "ease" else 0.0
    if needed > max(30.0, budget.left / 2):
        return f"for {items:,} items it would take about {clock(needed)}; raise --budget beyond {clock(2 * needed)}"
    return ""


def _trained(name: str, to: Path, run: Run, dataset: Dataset, share: float, callbacks: Sequence[Callback]) -> Rung:
    limit = TimeLimit(share)
    beside = to.with_name(to.name + ".run")
    start = time.perf_counter()
    trained = train(
        run,
        to=to,
        dataset=dataset,
        resume=(beside / "train.safetensors").is_file(),
        callbacks=[] if is_closed(name) else [limit, *callbacks],
    )
    assert isinstance(trained.split, Split)
    validation = judged(trained.model, run, trained.dataset, trained.split, "validation")
    seconds = time.perf_counter() - start
    write_json(beside / "fit.json", {"seconds": round(seconds, 3), "short": limit.reached})
    return Rung(name, to, seconds, validation, trained.test, trained.records, limit.reached)


def judged(model: Model, run: Run, dataset: Dataset, split: Split, part: str) -> Result:
    """The figures of a model on one part of the split; for the test with popularity and slices."""
    protocol = Protocol(ks=run.evaluation.ks, split=part, mask_seen=run.evaluation.mask_seen)
    if part == "validation":
        return evaluate(model, dataset, split.validation, protocol)
    return evaluate(model, dataset, split.test, protocol, train=split.train)


def stored(name: str, to: Path, run: Run, dataset: Dataset, split: Split) -> Rung:
    """A rung that an earlier call has finished."""
    model = Bundle.load(to, dataset.device).model
    beside = to.with_name(to.name + ".run")
    note: dict[str, Any] = read_json(beside / "fit.json") if (beside / "fit.json").is_file() else {}
    lines = beside / "train.jsonl"
    records = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()] if lines.is_file() else []
    figures = [judged(model, run, dataset, split, part) for part in ("validation", "test")]
    return Rung(
        name, to, float(note.get("seconds", 0.0)), figures[0], figures[1], records, bool(note.get("short", False))
    )


def forget(folder: Path) -> None:
    """Remove what an earlier ladder left in ``folder``."""
    if folder.is_dir() and any(folder.iterdir()):
        log.warning("%s: what an earlier fit had done is dropped; --resume would have gone on", folder)
        shutil.rmtree(folder)
