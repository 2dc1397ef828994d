"""Verdict on a refresh: what makes a new bundle worse, and drift that is more than chance."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from twotower.data.dataset import Dataset
from twotower.evaluation.result import Result
from twotower.experiment.refresh_drift import drifts
from twotower.experiment.refresh_verdict import Verdict, verdict
from twotower.serving.joined import Joined

ALIKE = Verdict("ndcg@10", 200, 0.10, 0.09, 0.2, 100, 60, "healthy", "suspect")


def result(values: torch.Tensor, *, coverage: float, items: int) -> Result:
    mean = values.mean().item()
    metrics = {"ndcg@10": mean, "coverage@10": coverage}
    return Result("test", torch.arange(len(values)), items, {"ndcg@10": values}, metrics, len(values), 0, 0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"p_value": 0.04}, "ndcg@10 is lower: 0.0900 instead of 0.1000 (200 users, p = 0.0400)"),
        ({"new_space": "collapsed"}, "its item vectors have collapsed (before: healthy)"),
        ({"new_items": 49}, "its lists hold 49 items instead of 100"),
    ],
)
def test_each_reason_alone_makes_it_worse(change: dict[str, object], reason: str) -> None:
    assert ALIKE.reasons == []
    assert not ALIKE.worse
    assert replace(ALIKE, **change).reasons == [reason]  # type: ignore[arg-type]
    assert replace(ALIKE, **change).to_json()["worse"] is True  # type: ignore[arg-type]


def test_better_is_not_worse_however_sure_and_a_collapsed_one_may_stay_so() -> None:
    assert not replace(ALIKE, new=0.2, p_value=0.0001).worse
    assert not replace(ALIKE, old_space="collapsed", new_space="collapsed").worse


def test_the_test_is_paired_over_users_and_lists_are_counted_in_items() -> None:
    noise = torch.rand(60, dtype=torch.float64)
    old, new = result(noise, coverage=0.5, items=40), result(noise - 0.01, coverage=0.25, items=44)
    found = verdict(old, new, "ndcg@10", spaces=(None, None), drifts=[])
    assert (found.old_items, found.new_items, found.users) == (20, 11, 60)
    assert found.p_value < 0.01  # a small loss of every user, far below the spread between users
    assert found.worse


def test_drift_of_the_same_events_is_that_of_chance_and_other_items_show(tiny_dataset: Dataset) -> None:
    events = tiny_dataset.log.num_events
    times = 50
    items = torch.cat([tiny_dataset.log.items.repeat(times), torch.full((events * times,), 9)])
    offsets = torch.tensor([0, 0, 0, len(items)])
    log = tiny_dataset.log._replace(offsets=offsets, items=items, times=torch.arange(len(items)), labels=None)
    schema = replace(tiny_dataset.schema, num_users=3)
    dataset = replace(tiny_dataset, schema=schema, log=log)
    moved = drifts(Joined(dataset, torch.arange(len(items)) >= events * times, 0, 0, 0))
    mixed = drifts(Joined(dataset, torch.rand(len(items)) < 0.5, 0, 0, 0))
    by_name = {drift.name: drift for drift in moved}
    assert by_name["popularity"].distance > 0.8
    assert by_name["item.brand"].distance > 3 * by_name["item.brand"].by_chance
    assert "item.picture" not in by_name
    assert all(drift.distance < 0.1 and drift.by_chance < 0.1 for drift in mixed)
    assert drifts(Joined(dataset, torch.zeros(len(items), dtype=torch.bool), 0, 0, 0)) == []
