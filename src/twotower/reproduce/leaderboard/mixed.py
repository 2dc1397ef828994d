"""A trained encoder mixed with lists by counts: the sum of both, with the weight that validation chooses."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from twotower.data.dataset import Dataset
from twotower.data.split import Split
from twotower.evaluation.protocol import Protocol
from twotower.evaluation.run import evaluate
from twotower.experiment.choose import climbed
from twotower.experiment.learn import validation_metrics
from twotower.experiment.run import Run
from twotower.models.base import ClosedForm, Model
from twotower.models.encode import encode_known_items
from twotower.models.mixed import Mixture
from twotower.models.registry import build_model

LISTS = "item_lists"


class MixedFigures(NamedTuple):
    """Hold what a mixture has on the test."""

    metrics: dict[str, float]
    per_user: dict[str, Tensor]


def mixed_with_lists(model: Model, run: Run, dataset: Dataset, split: Split, *, shrink: float) -> MixedFigures:
    """Combine a trained model with lists counted from the same training events, and rank the catalogue for the test.

    Args:
        model: as ``run`` trained it; one vector a user and an item.
        run: names its kind and settings, the metric that chooses the weight, and how answers are judged.
        dataset: on the model's device.
        split: its training events are counted, its validation chooses.
        shrink: of the lists.
    """
    settings = {"shrink": shrink}
    lists = build_model(LISTS, dataset.schema, settings)
    assert isinstance(lists, ClosedForm)
    lists.fit_log(split.train)
    lists.to(dataset.device)
    named = {
        "first": run.model.name,
        "first_settings": run.model.settings,
        "second": LISTS,
        "second_settings": settings,
    }
    mixture = build_model("mixture", dataset.schema, named).to(dataset.device)
    assert isinstance(mixture, Mixture)
    with torch.no_grad():
        first, second = (encode_known_items(one, dataset).states for one in (model, lists))
    mixture.hold(model, lists, items=(first, second))
    mixture.eval()
    metric = run.training.metric

    def score(weight: float) -> float:
        mixture.settle(weight)
        return validation_metrics(mixture, run, dataset, split)[metric]

    mixture.settle(climbed(mixture, mixture.first_choice(split.train), score, metric=metric))
    protocol = Protocol(ks=run.evaluation.ks, mask_seen=run.evaluation.mask_seen)
    judged = evaluate(mixture, dataset, split.test, protocol)
    return MixedFigures({**judged.metrics, "weight": mixture.weight}, judged.per_user)
