"""Measuring of a cell of FIT's tables: AUC and costs of one training, and whether FIT's queries are in use."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch.nn.functional as F

from twotower.data.dataset import Dataset
from twotower.evaluation.pointwise import relative_improvement
from twotower.experiment.candidates import judge_pairs, learn_pairs, pairs_of
from twotower.experiment.run import Run
from twotower.models.base import Model
from twotower.models.encode import inference
from twotower.models.fit.model import FIT
from twotower.reproduce.fit_picture import query_points
from twotower.reproduce.sets import without_text
from twotower.reproduce.study import Measured
from twotower.training.callbacks import EpochRecord, Silent


def measure(run: Run, dataset: Dataset) -> Measured:
    """Train one run on pairs and evaluate its test: AUC, log loss, GAUC, and recall among 2,000 candidates.

    Text features are left out, for every model alike: they are dear in a history, and the paper names none.
    """
    dataset = without_text(dataset)
    split = pairs_of(run, dataset)
    started = time.perf_counter()
    model, records = learn_pairs(run, dataset, split, callbacks=[WatchQueries(dataset)])
    costs = {
        "seconds_per_epoch": records[-1].seconds / len(records),
        "seconds": time.perf_counter() - started,
        "best_epoch": float(best_epoch(records)),
        "parameters": float(sum(parameter.numel() for parameter in model.parameters())),
    }
    if isinstance(model, FIT) and model.meta is not None:
        costs["query_similarity"] = query_similarity(model, dataset)
        costs["queries_in_use"] = queries_in_use(model, dataset)
    judged = judge_pairs(model, dataset, split, ks=run.evaluation.ks)
    validation = records[best_epoch(records) - 1].metrics["auc"]
    drawn = {}
    if run.training.seed == 1 and isinstance(model, FIT) and model.meta is not None and len(model.meta.meta) > 1:
        drawn = query_points(model, dataset)
    return Measured(validation, {**judged.request.metrics, **costs}, records, judged.per_user(), drawn)


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
