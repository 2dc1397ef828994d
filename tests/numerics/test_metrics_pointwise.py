"""AUC, grouped AUC and log loss against pairs counted one by one, and against scikit-learn."""

from __future__ import annotations

import math

import pytest
import torch

from twotower.core.errors import InputError
from twotower.metrics.pointwise import auc, grouped_auc, log_loss


def make_pairs(pairs: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Coarse scores, so that ties abound; labels; users."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(-4, 5, (pairs,), generator=generator).float() / 3
    labels = (torch.rand(pairs, generator=generator) < 0.4).float()
    users = torch.randint(2, 9, (pairs,), generator=generator)
    labels[:2] = torch.tensor([0.0, 1.0])
    return scores, labels, users


def slow_auc(pairs: list[tuple[float, float]]) -> float | None:
    wins, count = 0.0, 0
    for score, label in pairs:
        for other, other_label in pairs:
            if label == 1.0 and other_label == 0.0:
                count += 1
                wins += 1.0 if score > other else 0.5 if score == other else 0.0
    return wins / count if count else None


@pytest.mark.parametrize("pairs", [2, 9, 57])
def test_auc_matches_counting(pairs):
    scores, labels, _ = make_pairs(pairs, seed=pairs)
    expected = slow_auc(list(zip(scores.tolist(), labels.tolist(), strict=True)))
    assert auc(scores, labels) == pytest.approx(expected, rel=1e-12)


def test_grouped_auc_matches_counting():
    scores, labels, users = make_pairs(61, seed=1)
    users[:3], labels[:3] = 100, 1.0  # one class: left out
    total = weight = groups = 0
    for user in set(users.tolist()):
        rows = [(s, y) for s, y, u in zip(scores.tolist(), labels.tolist(), users.tolist(), strict=True) if u == user]
        value = slow_auc(rows)
        if value is not None:
            total, weight, groups = total + len(rows) * value, weight + len(rows), groups + 1
    found = grouped_auc(scores, labels, users)
    assert found.value == pytest.approx(total / weight, rel=1e-12)
    assert found.groups == groups


def test_log_loss_matches_the_formula():
    scores, labels, _ = make_pairs(31, seed=2)
    total = 0.0
    for score, label in zip(scores.tolist(), labels.tolist(), strict=True):
        chance = 1 / (1 + math.exp(-score))
        total -= label * math.log(chance) + (1 - label) * math.log(1 - chance)
    assert log_loss(scores, labels) == pytest.approx(total / 31, rel=1e-12)
    assert log_loss(torch.tensor([-1e4]), torch.tensor([1.0])) == pytest.approx(1e4)


@pytest.mark.slow
def test_matches_scikit_learn():
    from sklearn import metrics

    scores, labels, _ = make_pairs(400, seed=3)
    assert auc(scores, labels) == pytest.approx(metrics.roc_auc_score(labels.numpy(), scores.numpy()), rel=1e-12)
    chances = scores.double().sigmoid().numpy()
    assert log_loss(scores, labels) == pytest.approx(metrics.log_loss(labels.numpy(), chances), rel=1e-9)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class_is_refused(label):
    with pytest.raises(InputError, match="AUC is undefined: all 3 labels are (positive|negative)"):
        auc(torch.tensor([0.1, 0.2, 0.3]), torch.full((3,), label))
    with pytest.raises(InputError, match="no user has both"):
        grouped_auc(torch.tensor([0.1, 0.2]), torch.tensor([0.0, 1.0]), torch.tensor([2, 3]))


def test_no_pairs_and_nan_are_refused():
    with pytest.raises(InputError, match="no labelled pairs"):
        auc(torch.zeros(0), torch.zeros(0))
    with pytest.raises(InputError, match="no pairs"):
        log_loss(torch.zeros(0), torch.zeros(0))
    with pytest.raises(InputError, match="NaN"):
        auc(torch.tensor([0.0, math.nan]), torch.tensor([0.0, 1.0]))
    unlabelled = torch.tensor([0.0, 1.0, math.nan])
    with pytest.raises(InputError, match="labels hold NaN; leave out pairs that have no label"):
        auc(torch.zeros(3), unlabelled)
    with pytest.raises(InputError, match="labels hold NaN"):
        grouped_auc(torch.zeros(3), unlabelled, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(InputError, match="labels hold NaN"):
        log_loss(torch.zeros(3), unlabelled)
