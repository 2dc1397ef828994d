"""Measuring of a cell of FIT's tables: AUC and costs of one training, and whether FIT's queries are in use."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from twotower.data.dataset import Dataset
from twotower.data.pairs import PairSplit
from twotower.evaluation.pointwise import evaluate_rows, relative_improvement
from twotower.experiment.candidates import PAIR_TILE, judge_pairs, learn_pairs, validate_pairs
from twotower.experiment.labelled_pairs import pairs_of
from twotower.experiment.run import Run
from twotower.models.base import Model
from twotower.models.encode import inference
from twotower.models.fit.model import FIT
from twotower.reproduce.fit_picture import query_points
from twotower.reproduce.sets import without_text
from twotower.reproduce.study import Measured, seconds_since
from twotower.training.callbacks import EpochRecord, Silent

PER_USER = ("gauc", "recall@10", "recall@100", "ndcg@100")


def measure(run: Run, dataset: Dataset, folder: Path | None = None) -> Measured:
    """Train one run on pairs and evaluate its test: AUC, log loss, GAUC, and recall among 2,000 candidates.

    Text features are left out, for every model alike: they are dear in a history, and the paper names none.
    """
    dataset = without_text(dataset)
    return measure_split(run, dataset, pairs_of(run, dataset), folder)


def measure_split(
    run: Run, dataset: Dataset, split: PairSplit, folder: Path | None, *, requests: bool = True
) -> Measured:
    """Train one run on given pairs and evaluate their test.

    Args:
        run: what to learn, and how; a closed form has no epochs, and its scores are no logits.
        dataset: without texts.
        split: rows to train on, to choose the epoch by, and to test.
        folder: takes the checkpoint; None: there is none.
        requests: whether the test is also a search among 2,000 candidates, which needs one positive a user.
    """
    started = time.perf_counter()
    model, records = learn_pairs(
        run, dataset, split, folder=folder, resume=folder is not None, callbacks=[WatchQueries(dataset)]
    )
    costs = {}
    if records:
        costs = {
            "seconds_per_epoch": records[-1].seconds / len(records),
            "seconds": seconds_since(started, records),
            "best_epoch": float(best_epoch(records)),
            "parameters": float(sum(parameter.numel() for parameter in model.parameters())),
        }
    drawn = {}
    if isinstance(model, FIT) and model.meta is not None:
        costs["query_similarity"] = query_similarity(model, dataset)
        costs["queries_in_use"] = queries_in_use(model, dataset)
        if run.training.seed == 1 and len(model.meta.meta) > 1:
            drawn = query_points(model, dataset)
    metrics, users = _judged(model, dataset, split, run.evaluation.ks, requests)
    if not records:
        metrics.pop("log_loss", None)
        return Measured(validate_pairs(model, split)["auc"], metrics, records, users)
    validation = records[best_epoch(records) - 1].metrics["auc"]
    return Measured(validation, {**metrics, **costs}, records, users, drawn)


def _judged(
    model: Model, dataset: Dataset, split: PairSplit, ks: Sequence[int], requests: bool
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Metrics of the test, and those that have a value a user, with the users."""
    if not requests:
        return dict(evaluate_rows(model, split.test, pair_tile=PAIR_TILE).metrics), {}
    judged = judge_pairs(model, dataset, split, ks=ks)
    users = {name: value for name, value in judged.per_user().items() if name in PER_USER}
    return dict(judged.request.metrics), users | {"users": judged.request.users}


def best_epoch(records: Sequence[EpochRecord]) -> int:
    """Return the epoch whose weights were kept: the best AUC among those that were trained as they are served."""
    judged = [record for record in records if "auc" in record.metrics]
    able = [record for record in judged if record.selectable] or judged[-1:]
    return max(able, key=lambda record: record.metrics["auc"]).epoch


class WatchQueries(Silent):
    """Add query similarity and queries in use to each epoch's metrics."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def epoch_done(self, record: EpochRecord, model: Model) -> None:
        """Add to the record."""
        if isinstance(model, FIT) and model.meta is not None:
            record.metrics["query_similarity"] = query_similarity(model, self.dataset)
            record.metrics["queries_in_use"] = queries_in_use(model, self.dataset)


def query_similarity(model: FIT, dataset: Dataset) -> float:
    """Return the mean cosine of each item's soft query, at the current temperature, with its hard one.

    Source: FIT (Xiong et al., SIGIR 2025), equation 24.
    """
    assert model.meta is not None
    with inference(model):
        items = model.item_fields.of_ids(dataset.known_items())
        hard = model.meta.hard()[model.meta.index(items)]
        temperature = 1.0 if model.query_training == "soft" else model.query_temperature
        return F.cosine_similarity(model.meta.soft(items, temperature), hard, dim=1).mean().item()


def queries_in_use(model: FIT, dataset: Dataset) -> float:
    """Return `MetaQueries.in_use` over all items."""
    assert model.meta is not None
    with inference(model):
        ids = dataset.known_items()
        return model.meta.in_use(model.item_fields.of_ids(ids)).item()


def against_reference(own: Mapping[str, float], reference: Mapping[str, float]) -> dict[str, float]:
    """Return RelaImpr of a training over the reference's of the same seed."""
    return {"relaimpr": relative_improvement(own["auc"], reference["auc"])} if reference["auc"] > 0.5 else {}
