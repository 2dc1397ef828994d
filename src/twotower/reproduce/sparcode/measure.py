"""Measuring of a cell of SparCode's table: one training, evaluated densely and by lists of several lengths."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from twotower.core.records import FIRST_KNOWN
from twotower.core.states import take
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.data.split import Split
from twotower.evaluation.protocol import Protocol
from twotower.evaluation.run import evaluate
from twotower.experiment.catalogue import split_of
from twotower.experiment.learn import learn, validation_metrics
from twotower.experiment.run import Run
from twotower.metrics.ranking import ranking_metrics
from twotower.models.base import ClosedForm, Model
from twotower.models.sparcode import SparCode
from twotower.models.sparcode_twin import SparCodeTwin
from twotower.models.tdm import TDM
from twotower.reproduce.sets import without_text
from twotower.reproduce.sparcode.lists import (
    USERS,
    Asked,
    Lists,
    Search,
    asked_of,
    down_the_tree,
    filled,
    lists_by_one_bias,
    nominating,
    own_lists,
    ranks_of,
)
from twotower.reproduce.study import TUNING_SEED, Measured, seconds_since
from twotower.towers.codes.quantiser import Quantiser
from twotower.training.callbacks import EpochRecord

FEW_ITEMS = 10_000
CODES = 1024, 2048
"""Lists that nominate: up to `FEW_ITEMS` items, and beyond."""
SPARSITIES = (98.0, 99.0), (99.0, 99.5)
"""Per cent of the catalogue that a list leaves out, likewise: shorter lists of few items cannot fill an answer."""
CURVE = 0.0, 90.0, 95.0, 98.0, 99.0, 99.5
"""Of a curve of quality and time against sparsity."""
TIMED = 200
"""Users whose searches are timed."""
LISTED = 16_384
"""Codes that have a list here, at most; combinations of several codebooks are judged densely."""
BEAM = 100
"""Nodes of a level that TDM's search keeps."""
KEPT = ("recall", "ndcg", "precision", "precision_min")


def measure(run: Run, dataset: Dataset, folder: Path | None = None) -> Measured:
    """Train one run, rank the whole catalogue for every test user, and again by lists where the model has any.

    Of each user's events the first of every item counts, so that what is asked for was not seen before.
    """
    return _measured(run, dataset, SPARSITIES[known_items(dataset) > FEW_ITEMS], folder)


def measure_curve(run: Run, dataset: Dataset, folder: Path | None = None) -> Measured:
    """Train one run, and answer by lists of every length of a curve, with the time of a search; the rest as `measure`.

    "98/microseconds" is the processor time of a search in lists of 98 % sparsity, one user at a time: the median.
    SparCode's lists come twice: the best of each code, and as "bias98/…" all scores above one threshold.
    """
    return _measured(run, dataset, CURVE, folder, curve=True)


def measure_dense(run: Run, dataset: Dataset, folder: Path | None = None) -> Measured:
    """Train one run and rank the whole catalogue for every test user, without lists; the rest is as in `measure`."""
    return _measured(run, dataset, (), folder)


def _measured(
    run: Run, dataset: Dataset, sparsities: Sequence[float], folder: Path | None, *, curve: bool = False
) -> Measured:
    dataset = without_text(dataset)
    dataset = dataset.with_log(first_events(dataset.log.positives()))
    if run.model.name in CLOSED:
        dataset = dataset.to("cpu")
    split = split_of(run, dataset)
    metric, seed, started = run.training.metric, run.training.seed, time.perf_counter()
    model, records = learn(run, dataset, split, folder=folder, resume=folder is not None)
    costs = {"seconds": seconds_since(started, records)}
    if records:
        costs["seconds_per_epoch"] = records[-1].seconds / len(records)
        costs["best_epoch"] = float(best_epoch(records, metric))
        validation = next(r.metrics[metric] for r in records if r.epoch == best_epoch(records, metric))
    else:
        validation = validation_metrics(model, run, dataset, split)[metric]
    ks = run.evaluation.ks
    judged = evaluate(model, dataset, split.test, Protocol(ks=ks))
    per_user = with_precision_min(judged.per_user, ks)
    listed, figures = dict[str, Tensor](), dict[str, float]()
    if sparsities and seed != TUNING_SEED:
        lengths = lengths_of_lists(known_items(dataset), sparsities)
        listed, figures = by_lists(model, dataset, split, ks, seed, lengths, curve=curve)
    whole = per_user | listed
    means = {name: values.mean().item() for name, values in whole.items() if _metric(name) in KEPT}
    kept = {name: values for name, values in whole.items() if _metric(name) in KEPT and name.endswith(f"@{max(ks)}")}
    kept["users"] = judged.users
    return Measured(validation, {**means, **figures, **costs}, records, kept)


def _metric(name: str) -> str:
    return name.rsplit("/", 1)[-1].split("@")[0]


CLOSED = ("popularity", "cluster_popularity", "item_cosine", "item_lists", "ease", "sparse_ease")


def first_events(log: Log) -> Log:
    """Return the log without events that repeat an earlier item of the same user."""
    key = log.users() * (int(log.items.max()) + 1) + log.items if log.num_events else log.items
    order = key.argsort(stable=True)
    first = torch.ones_like(order, dtype=torch.bool)
    first[1:] = key[order][1:] != key[order][:-1]
    mask = torch.zeros_like(first)
    mask[order] = first
    return log.select(mask)


def best_epoch(records: Sequence[EpochRecord], metric: str) -> int:
    """Return the epoch whose weights were kept."""
    judged = [record for record in records if metric in record.metrics]
    able = [record for record in judged if record.selectable] or judged[-1:]
    return max(able, key=lambda record: record.metrics[metric]).epoch


def with_precision_min(per_user: dict[str, Tensor], ks: Sequence[int]) -> dict[str, Tensor]:
    """Add precision that divides by min(k, relevant items of the user): "precision_min@k".

    Examples:
        >>> with_precision_min({"recall@4": torch.tensor([0.5]), "precision@4": torch.tensor([0.25])}, [4])[
        ...     "precision_min@4"
        ... ].tolist()
        [0.5]
    """
    more = {}
    for k in ks:
        hits = per_user[f"precision@{k}"] * k
        relevant = torch.where(hits > 0, (hits / per_user[f"recall@{k}"].clamp(min=1e-12)).round(), 1.0)
        more[f"precision_min@{k}"] = hits / relevant.clamp(max=k)
    return {**per_user, **more}


def known_items(dataset: Dataset) -> int:
    """Return how many items the catalogue has."""
    return dataset.schema.num_items - FIRST_KNOWN


def lengths_of_lists(items: int, sparsities: Sequence[float]) -> dict[str, int]:
    """Return items of a list by the sparsity that they leave, in per cent, for a catalogue of that size.

    Examples:
        >>> lengths_of_lists(3_883, (98.0, 99.0))
        {'98': 78, '99': 39}
        >>> lengths_of_lists(43_097, (99.0, 99.5))
        {'99': 431, '99.5': 215}
    """
    return {f"{percent:g}": max(1, round(items * (100.0 - percent) / 100.0)) for percent in sparsities}


def is_listed(model: Model) -> bool:
    """Return whether a model has codes of its own that are given lists here."""
    if not (isinstance(model, SparCode) and model.selectable and model.has_lists):
        return False
    several = isinstance(model.coder, Quantiser) and model.coder.books > 1
    return not several and model.num_lists <= LISTED


def by_lists(
    model: Model,
    dataset: Dataset,
    split: Split,
    ks: Sequence[int],
    seed: int,
    lengths: Mapping[str, int],
    *,
    curve: bool = False,
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Return metrics of each user and figures of the lists, by the name of their length, such as "98/recall@50".

    Of a tree they are named "beam/recall@50".
    """
    if isinstance(model, ClosedForm) or not (is_listed(model) or isinstance(model, SparCodeTwin | TDM)):
        return {}, {}
    popular = split.train.items.bincount(minlength=dataset.schema.num_items).cpu()
    popular[:FIRST_KNOWN] = -1
    best_known = popular.argsort(descending=True, stable=True)[: known_items(dataset)]
    asked = asked_of(model, dataset, split.test)
    per_user: dict[str, Tensor] = {}
    figures: dict[str, float] = {}
    items, k = known_items(dataset), max(ks)

    def answer(name: str, search: Search) -> None:
        parts = [slice(at, at + USERS) for at in range(0, asked.users, USERS)]
        found = torch.cat([search(take(asked.states, part), k, asked.seen[part]) for part in parts])
        answers = filled(found, asked.seen, best_known)
        metrics = ranking_metrics(ranks_of(answers, asked), asked.rows, asked.users, ks)
        per_user.update({f"{name}/{metric}": values for metric, values in with_precision_min(metrics, ks).items()})
        figures[f"{name}/short"] = float((found < 0).any(1).float().mean())
        if curve:
            figures[f"{name}/microseconds"] = median_time(search, asked, k)

    if isinstance(model, TDM):
        answer("beam", down_the_tree(model, dataset, beam=BEAM))
        return per_user, figures
    kinds: dict[str, Lists] = {}
    if isinstance(model, SparCode):
        kinds[""] = own_lists(model, dataset)
        if curve:
            kinds["bias"] = lists_by_one_bias(model, dataset)
    else:
        kinds[""] = nominating(model, dataset, split.train, codes=CODES[items > FEW_ITEMS], seed=seed)
    for kind, lists_of in kinds.items():
        for length, longest in lengths.items():
            name = f"{kind}{length}"
            search, lists = lists_of(longest)
            answer(name, search)
            figures[f"{name}/sparsity"] = lists.sparsity
            figures[f"{name}/mean_list"] = float(lists.lengths.mean())
            if curve:
                figures[f"{name}/longest"] = float(lists.lengths.max())
                figures[f"{name}/empty"] = float((lists.lengths == 0).mean())
    return per_user, figures


def median_time(search: Search, asked: Asked, k: int) -> float:
    """Return the median of the processor time of searches for one user each, in microseconds."""
    times = []
    for user in range(min(TIMED, asked.users)):
        state, seen = take(asked.states, slice(user, user + 1)), asked.seen[user : user + 1]
        started = time.thread_time_ns()
        search(state, k, seen)
        times.append((time.thread_time_ns() - started) / 1000)
    return statistics.median(times)
