"""Measuring of a cell of the leaderboard: one training, the whole catalogue ranked, ties counted and no clock read."""

from __future__ import annotations

import time
from pathlib import Path

from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.data.split import Split, Targets
from twotower.data.ties import ties_of
from twotower.evaluation.protocol import Protocol
from twotower.evaluation.run import evaluate
from twotower.experiment.catalogue import split_of
from twotower.experiment.learn import learn, validation_metrics
from twotower.experiment.run import Run
from twotower.models.base import ClosedForm
from twotower.models.registry import model_class
from twotower.reproduce.leaderboard.mixed import mixed_with_lists
from twotower.reproduce.sets import without_text
from twotower.reproduce.study import TUNING_SEED, Measured, seconds_since
from twotower.training.callbacks import EpochRecord

KEPT = ("hit_rate@10", "ndcg@10")
"""Metrics whose values of users are kept, for the tests over users."""
WITH_LISTS = "lists/"
"""Before the name of a metric of the mixture with lists by counts."""
SHRINK = {"ml-1m-3706": 10.0, "ml-1m-3416": 10.0, "sessions-diginetica": 10.0}
OTHERWISE = 100.0
"""Shrinkages of these lists, by data set: what validation chose for them alone."""


def measure(run: Run, dataset: Dataset, folder: Path | None = None) -> Measured:
    """Train one run and rank the whole catalogue for every user of the test; an encoder also mixed with lists.

    Times decide the order of events and say which tie; then they are taken away, so that no row reads a clock: of
    MovieLens-1M copies are about that have one for some users alone. Closed forms are counted on the CPU.
    """
    dataset = without_text(dataset)
    if issubclass(model_class(run.model.name), ClosedForm):
        dataset = dataset.to("cpu")
    ties = {} if dataset.log.times is None else last_tied(dataset.log)
    split = untimed_split(split_of(run, dataset))
    dataset = dataset.with_log(untimed(dataset.log))
    metric, started = run.training.metric, time.perf_counter()
    model, records = learn(run, dataset, split, folder=folder, resume=folder is not None)
    costs = {
        "seconds": seconds_since(started, records),
        "parameters": float(sum(part.numel() for part in model.parameters())),
    }
    if records:
        best = best_record(records, metric)
        validation = best.metrics[metric]
        costs |= {"seconds_per_epoch": records[-1].seconds / len(records), "best_epoch": float(best.epoch)}
    else:
        validation = validation_metrics(model, run, dataset, split)[metric]
    protocol = Protocol(ks=run.evaluation.ks, mask_seen=run.evaluation.mask_seen)
    judged = evaluate(model, dataset, split.test, protocol)
    metrics, per_user = judged.metrics | ties | costs, dict(judged.per_user)
    if records and run.training.seed != TUNING_SEED:
        mixed = mixed_with_lists(model, run, dataset, split, shrink=SHRINK.get(dataset.name, OTHERWISE))
        metrics |= {f"{WITH_LISTS}{name}": value for name, value in mixed.metrics.items()}
        per_user |= {f"{WITH_LISTS}{name}": value for name, value in mixed.per_user.items()}
    kept = {name: values for name, values in per_user.items() if name.removeprefix(WITH_LISTS) in KEPT}
    return Measured(validation, metrics, records, kept)


def last_tied(log: Log) -> dict[str, float]:
    """Return the share of users whose last event bears the time of the one before it."""
    ties = ties_of(log)
    return {"last_tied": ties.last / max(1, ties.users)}


def best_record(records: list[EpochRecord], metric: str) -> EpochRecord:
    """Return the record of the epoch whose weights were kept."""
    judged = [record for record in records if metric in record.metrics]
    return max([record for record in judged if record.selectable] or judged[-1:], key=lambda one: one.metrics[metric])


def untimed(log: Log) -> Log:
    """Return the log without its times."""
    return log._replace(times=None)


def untimed_split(split: Split) -> Split:
    """Return the split without times in any of its parts."""

    def both(targets: Targets) -> Targets:
        return Targets(untimed(targets.history), untimed(targets.truth))

    return Split(untimed(split.train), both(split.validation), both(split.test), untimed(split.known), split.leaks)
