"""Bootstrap intervals and the permutation test against loops in Python and against every possible flip."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch

from twotower.metrics import intervals
from twotower.metrics.intervals import bootstrap_intervals, paired_permutation


def slow_bootstrap(values: list[float], confidence: float, resamples: int) -> tuple[float, float]:
    means = sorted(sum(random.choices(values, k=len(values))) / len(values) for _ in range(resamples))
    tail = (1 - confidence) / 2
    return means[round(tail * (resamples - 1))], means[round((1 - tail) * (resamples - 1))]


@pytest.mark.parametrize(("users", "confidence"), [(7, 0.9), (41, 0.95)])
def test_bootstrap_agrees_with_a_loop(users, confidence):
    values = torch.rand(users, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(users)) ** 3
    found = bootstrap_intervals(values, confidence=confidence, resamples=6000)
    for metric in range(3):
        low, high = slow_bootstrap(values[:, metric].tolist(), confidence, 6000)
        # Six thousand draws leave an end uncertain by about a twentieth of the standard error.
        room = 0.12 * values[:, metric].std().item() / users**0.5
        assert found[metric].tolist() == pytest.approx([low, high], abs=room)


def test_metrics_of_one_draw_share_users():
    values = torch.rand(23, 1, dtype=torch.float64)
    both = bootstrap_intervals(torch.cat([values, 2 * values], dim=1), resamples=200)
    torch.testing.assert_close(both[1], 2 * both[0], rtol=1e-12, atol=0)


def test_drawing_in_parts_has_no_effect(monkeypatch):
    values, other = torch.rand(29, 2, dtype=torch.float64), torch.rand(29, dtype=torch.float64)
    whole = bootstrap_intervals(values, resamples=50), paired_permutation(values[:, 0], other, permutations=400)
    monkeypatch.setattr(intervals, "ENTRIES", 29 * 7)
    parts = bootstrap_intervals(values, resamples=50), paired_permutation(values[:, 0], other, permutations=400)
    torch.testing.assert_close(parts[0], whole[0], rtol=1e-12, atol=0)
    assert parts[1].difference == whole[1].difference
    assert parts[1].p_value == pytest.approx(whole[1].p_value, abs=0.1)


def test_same_seed_same_interval():
    values = torch.rand(19, 2)
    assert bootstrap_intervals(values, seed=4).equal(bootstrap_intervals(values, seed=4))
    assert not bootstrap_intervals(values, seed=4).equal(bootstrap_intervals(values, seed=5))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_permutation_agrees_with_every_flip(seed):
    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.randint(0, 4, (11,), generator=generator) / 3 for _ in range(2))
    differences = [round(3 * d) for d in (first - second).tolist()]  # whole numbers: ties are exact
    observed = abs(sum(differences))
    flips = list(itertools.product([-1, 1], repeat=11))
    extreme = sum(abs(sum(s * d for s, d in zip(flip, differences, strict=True))) >= observed for flip in flips)
    found = paired_permutation(first, second, permutations=40_000)
    assert found.difference == pytest.approx(sum(differences) / 33, abs=1e-7)
    assert found.p_value == pytest.approx(extreme / len(flips), abs=0.012)  # over four standard errors


def test_the_same_model_twice_has_p_one_and_a_clear_winner_the_least():
    values = torch.rand(200)
    assert paired_permutation(values, values, permutations=99) == (0.0, 1.0)
    assert paired_permutation(values + 1.0, values, permutations=99).p_value == 0.01


def test_p_values_are_uniform_when_models_are_alike():
    noise = np.random.default_rng(0).normal(size=(150, 2, 40))
    p = [paired_permutation(*torch.from_numpy(pair), permutations=200).p_value for pair in noise]
    assert np.mean(np.array(p) <= 0.2) == pytest.approx(0.2, abs=0.1)


@pytest.mark.parametrize("settings", [{"confidence": 1.0}, {"confidence": 0.0}, {"resamples": 0}])
def test_bad_settings_are_refused(settings):
    with pytest.raises(ValueError, match="confidence between 0 and 1"):
        bootstrap_intervals(torch.rand(3, 1), **settings)


@pytest.mark.bad_input
def test_no_users_and_unequal_users_are_refused():
    with pytest.raises(ValueError, match="at least one user"):
        bootstrap_intervals(torch.zeros(0, 1))
    with pytest.raises(ValueError, match="same users"):
        paired_permutation(torch.zeros(3), torch.zeros(4))
