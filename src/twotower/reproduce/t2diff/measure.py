"""Measuring of a cell of T2Diff's tables: one training, and the whole catalogue ranked for each user's last event."""

from __future__ import annotations

import time
from pathlib import Path

from twotower.data.dataset import Dataset
from twotower.data.examples import SequenceRows
from twotower.data.split import Split
from twotower.evaluation.protocol import Protocol
from twotower.evaluation.run import evaluate
from twotower.experiment.catalogue import split_of
from twotower.experiment.learn import learn, validation_metrics
from twotower.experiment.run import Run
from twotower.models.base import Model
from twotower.models.t2diff import T2Diff
from twotower.reproduce.sparcode.measure import CLOSED, best_epoch
from twotower.reproduce.study import TUNING_SEED, Measured, seconds_since
from twotower.reproduce.t2diff.cosines import restored_cosines
from twotower.reproduce.t2diff.data import as_judged
from twotower.towers.sequence.cloze import ClozeEncoder

NDCG = 10
"""List length of NDCG, which the paper does not give."""
TABLES = ("item_table", "item_augmented", "user_augmented")
"""Parameters with one row an item or a user."""


def measure(run: Run, dataset: Dataset, folder: Path | None = None) -> Measured:
    """Train one run and rank the whole catalogue for every user of the test; of T2Diff, restored cosines too.

    What a user has clicked or rated before, in the log of `as_judged`, is left out of the answers.
    """
    dataset = as_judged(dataset)
    if run.model.name in CLOSED:
        dataset = dataset.to("cpu")
    split = split_of(run, dataset)
    metric, seed, started = run.training.metric, run.training.seed, time.perf_counter()
    model, records = learn(run, dataset, split, folder=folder, resume=folder is not None)
    figures = {"seconds": seconds_since(started, records)}
    if records:
        best = best_epoch(records, metric)
        validation = next(record.metrics[metric] for record in records if record.epoch == best)
        figures |= {
            "seconds_per_epoch": records[-1].seconds / len(records),
            "best_epoch": float(best),
            "million_targets": best * targets_an_epoch(model, dataset, split) / 1e6,
            "million_parameters": sum(weight.numel() for weight in model.parameters()) / 1e6,
            "million_without_tables": parameters(model) / 1e6,
        }
    else:
        validation = validation_metrics(model, run, dataset, split)[metric]
    if seed == TUNING_SEED:
        return Measured(validation, figures, records, {})
    ks = run.evaluation.ks
    judged = evaluate(model, dataset, split.test, Protocol(ks=tuple(sorted({*ks, NDCG}))))
    names = [f"{name}@{k}" for name in ("recall", "mrr") for k in ks] + [f"ndcg@{NDCG}"]
    figures |= {name: judged.metrics[name] for name in names}
    if isinstance(model, T2Diff):
        figures |= restored_cosines(model, dataset, split.train, split.test, seed=seed)
    return Measured(validation, figures, records, {name: judged.per_user[name] for name in names})


def targets_an_epoch(model: Model, dataset: Dataset, split: Split) -> float:
    """Return how many items a training pass asks for: one a place; of cloze the hidden ones, in the mean."""
    rows = SequenceRows(dataset, split.train, history_length=model.history_length or 0, item_features=False)
    tower = getattr(model, "tower", None)
    if not isinstance(tower, ClozeEncoder):
        return float(rows.lengths.sum())
    places = rows.lengths.double() + 1.0  # the whole window, with the last item
    none = (1.0 - tower.masked_share) ** places  # then the last one is hidden
    return float(((1.0 - tower.end_share) * (tower.masked_share * places + none) + tower.end_share).sum())


def parameters(model: Model) -> int:
    """Return the number of parameters without tables of items and users."""
    return sum(weight.numel() for name, weight in model.named_parameters() if name.split(".")[0] not in TABLES)
