"""Checks at the end of every training: one line on the space of item vectors, one on popularity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.data.split import Split
from twotower.evaluation.protocol import Protocol
from twotower.evaluation.result import Result
from twotower.evaluation.run import evaluate
from twotower.models.base import ClosedForm, Model
from twotower.models.baselines.popularity import Popularity
from twotower.models.encode import ItemStates


class Check(NamedTuple):
    """Hold one line, and whether all is well."""

    text: str
    fine: bool


def check_items(model: Model, items: ItemStates, learnt: Log) -> dict[str, Any] | None:
    """Diagnose the item vectors, where the model has vectors of at least two numbers."""
    states = items.states
    if not model.has_vectors or isinstance(model, ClosedForm) or not isinstance(states, Tensor) or states.shape[1] < 2:
        return None
    from twotower.diagnosis import diagnose

    popularity = learnt.positives().items.bincount(minlength=model.schema.num_items).cpu()[items.ids.cpu()]
    return diagnose(states.cpu(), popularity=popularity, seed=0).to_json()


def check_space(diagnosis: Mapping[str, Any]) -> Check:
    """Check the mean cosine and the directions filled of item vectors against the limits of the diagnosis."""
    found = diagnosis["statistics"]
    cosine, filled, width = found["mean_cosine"], diagnosis["centred"]["direction_participation"], found["dimensions"]
    shown = "undefined" if cosine is None else f"{cosine:.2f}"
    many = "no" if filled is None else f"about {filled:.1f}"
    text = f"item vectors: mean cosine {shown}, {many} of {width} directions filled"
    if cold := diagnosis.get("cold"):
        text += f" ({cold['rows']:,} of {cold['of']:,} items, without a training event, left out)"
    if diagnosis["verdict"] == "collapsed":
        why = "; ".join(reason["sentence"] for reason in diagnosis["reasons"] if reason["level"] == "collapsed")
        return Check(f"{text}: they have collapsed ({why}); see 'twotower diagnose' for the bundle", False)
    return Check(text, True)


def check_popularity(test: Result, dataset: Dataset, split: Split, learnt: Log, *, metric: str, mask: bool) -> Check:
    """Compare the test metric with that of popularity: the items with the most training events, for everybody.

    Args:
        test: of the model.
        dataset: what was learnt from.
        split: whose test is asked.
        learnt: the events that the model has learnt from; popularity counts the same.
        metric: to compare; where the test has no such one, the first that it has.
        mask: whether items of the history are left out of answers, as for the model.
    """
    name = metric if metric in test.metrics else next(iter(test.metrics))
    model = Popularity(dataset.schema).to(dataset.device)
    model.fit_log(learnt)
    ks = tuple(sorted({int(key.partition("@")[2]) for key in test.metrics if key.partition("@")[2].isdecimal()}))
    other = evaluate(model, dataset, split.test, Protocol(ks=ks, mask_seen=mask), train=learnt).metrics[name]
    mine = test.metrics[name]
    if mine < other:
        return Check(
            f"test {name}: {mine:.4f} is below popularity ({other:.4f}): training has failed, or stopped "
            "too early; 'ease' and 'item_cosine' need no training",
            False,
        )
    return Check(f"test {name}: {mine:.4f}, popularity {other:.4f}", True)
