"""Labelled pairs: scores in tiles, temperature in the log loss, undefined figures."""

from __future__ import annotations

import math

import pytest
import torch

from twotower.core.errors import InputError
from twotower.data.log import Log
from twotower.data.split import Targets
from twotower.evaluation.pointwise import evaluate_pairs
from twotower.models.registry import build_model


@pytest.fixture
def targets(tiny_log):
    """Every user's history, and two labelled pairs each for users 2 to 4."""
    offsets = torch.tensor([0, 0, 0, 2, 4, 6, 6, 6])
    labels = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0, 1.0])
    return Targets(tiny_log, Log(offsets, torch.tensor([3, 8, 2, 9, 7, 4]), None, labels))


@pytest.fixture
def popularity(tiny_dataset):
    model = build_model("popularity", tiny_dataset.schema)
    model.fit_log(tiny_dataset.log)
    return model


def test_matches_counting_pairs(popularity, tiny_dataset, targets):
    result = evaluate_pairs(popularity, tiny_dataset, targets)
    counts = [tiny_dataset.log.items.tolist().count(item) for item in targets.truth.items.tolist()]
    assert result.scores.tolist() == counts
    assert result.users.tolist() == [2, 2, 3, 3, 4, 4]
    pairs = [(counts[i], counts[j]) for i in (0, 2, 5) for j in (1, 3, 4)]
    wins = sum(1.0 if p > n else 0.5 if p == n else 0.0 for p, n in pairs)
    assert result.metrics["auc"] == pytest.approx(wins / 9)
    own = [(counts[0], counts[1]), (counts[2], counts[3]), (counts[5], counts[4])]
    assert result.metrics["gauc"] == pytest.approx(sum(1.0 if p > n else 0.5 if p == n else 0.0 for p, n in own) / 3)
    assert result.gauc_users == 3


def test_log_loss_takes_the_temperature(popularity, tiny_dataset, targets, monkeypatch):
    monkeypatch.setattr(popularity, "logit_scale", lambda: 0.5)
    result = evaluate_pairs(popularity, tiny_dataset, targets)
    total = 0.0
    for score, label in zip(result.scores.tolist(), result.labels.tolist(), strict=True):
        chance = 1 / (1 + math.exp(-0.5 * score))
        total -= math.log(chance if label else 1 - chance)
    assert result.metrics["log_loss"] == pytest.approx(total / 6, rel=1e-6)


@pytest.mark.parametrize("tile", [1, 4])
def test_tiles_have_no_effect(tiny_dataset, targets, tile):
    model = build_model("ease", tiny_dataset.schema)
    model.fit_log(tiny_dataset.log)
    whole, cut = (
        evaluate_pairs(model, tiny_dataset, targets),
        evaluate_pairs(model, tiny_dataset, targets, pair_tile=tile),
    )
    torch.testing.assert_close(cut.scores, whole.scores)
    assert cut.metrics == pytest.approx(whole.metrics)


def test_undefined_figures_are_refused_or_left_out(popularity, tiny_dataset, targets):
    history, truth = targets
    with pytest.raises(InputError, match="have no labels"):
        evaluate_pairs(popularity, tiny_dataset, Targets(history, truth._replace(labels=None)))
    with pytest.raises(InputError, match="all 6 labels are positive"):
        evaluate_pairs(popularity, tiny_dataset, Targets(history, truth._replace(labels=torch.ones(6))))
    by_user = truth._replace(labels=torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0, 1.0]))
    result = evaluate_pairs(popularity, tiny_dataset, Targets(history, by_user))
    assert "gauc" not in result.metrics
    assert result.gauc_users == 0
