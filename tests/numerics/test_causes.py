"""Drift and variance shares against counts and double loops in plain Python."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from twotower.core.schema import Feature
from twotower.diagnosis.causes.contribution import directions_filled, variance_shares
from twotower.diagnosis.causes.drift import BINS, compare_values, jensen_shannon


def slow_entropy(counts: Counter[Hashable]) -> float:
    total = sum(counts.values())
    return -sum(count / total * math.log(count / total) for count in counts.values() if count)


def slow_divergence(first: Counter[Hashable], second: Counter[Hashable]) -> float:
    """Half of both Kullback-Leibler divergences from the mean, base 2."""
    a, b = sum(first.values()), sum(second.values())
    found = 0.0
    for value in first.keys() | second.keys():
        p, q = first[value] / a, second[value] / b
        mean = (p + q) / 2
        for share in (p, q):
            found += share / 2 * math.log2(share / mean) if share else 0.0
    return found


def tokens(rows: Sequence[Sequence[int]]) -> Counter[Hashable]:
    """Each token, and "none" for a row without one."""
    counts: Counter[Hashable] = Counter()
    for row in rows:
        present = [token for token in row if token]
        counts.update(present or ["none"])
    return counts


def draw(seed: int, *shape: int, size: int) -> Tensor:
    return torch.randint(0, size, shape, generator=torch.Generator().manual_seed(seed))


def test_categories_match_a_count() -> None:
    now, training = draw(0, 37, size=6), draw(1, 211, size=9)
    found = compare_values(Feature("brand", "categorical", 9), now, training)
    counts = Counter(now.tolist())
    assert found.missing == pytest.approx(counts[0] / 37, rel=1e-12)
    assert found.unknown == pytest.approx(counts[1] / (37 - counts[0]), rel=1e-12)
    assert found.constant == pytest.approx(max(counts.values()) / 37, rel=1e-12)
    assert found.entropy == pytest.approx(slow_entropy(tokens([[value] for value in now.tolist()])), rel=1e-12)
    expected = slow_divergence(Counter(now.tolist()), Counter(training.tolist()))
    assert found.js_divergence == pytest.approx(expected, rel=1e-12)
    assert (found.variance_ratio, found.mean_shift, found.outside) == (None, None, None)


@pytest.mark.parametrize("kind", ["text", "multi_categorical"])
def test_tokens_match_a_count(kind: str) -> None:
    now, training = draw(2, 41, 3, size=5), draw(3, 97, 3, size=7)
    found = compare_values(Feature("tags", kind, 7, width=3), now, training)  # type: ignore[arg-type]
    rows = now.tolist()
    whole = Counter(tuple(sorted(row)) for row in rows)
    assert found.missing == pytest.approx(sum(not any(row) for row in rows) / 41, rel=1e-12)
    assert found.constant == pytest.approx(max(whole.values()) / 41, rel=1e-12)
    flat = [token for row in rows for token in row if token]
    assert found.unknown == pytest.approx(flat.count(1) / len(flat), rel=1e-12)
    assert found.entropy == pytest.approx(slow_entropy(tokens(rows)), rel=1e-12)
    assert found.training_entropy == pytest.approx(slow_entropy(tokens(training.tolist())), rel=1e-12)
    assert found.js_divergence == pytest.approx(slow_divergence(tokens(rows), tokens(training.tolist())), rel=1e-12)


def test_numbers_match_bins_of_sorted_training_values() -> None:
    generator = np.random.default_rng(4)
    training, now = generator.normal(3.0, 2.0, 157), generator.normal(4.0, 1.0, 43)
    training[::10], now[::7] = np.nan, np.nan
    known = sorted(value for value in training.tolist() if value == value)
    cuts = [known[place * len(known) // BINS] for place in range(1, BINS)]

    def place(value: float) -> Hashable:
        return "none" if value != value else sum(value >= cut for cut in cuts)

    found = compare_values(Feature("price", "numeric", 1), torch.tensor(now), torch.tensor(training))
    counts, then = Counter(map(place, now.tolist())), Counter(map(place, training.tolist()))
    assert found.entropy == pytest.approx(slow_entropy(counts), rel=1e-12)
    assert found.training_entropy == pytest.approx(slow_entropy(then), rel=1e-12)
    assert found.js_divergence == pytest.approx(slow_divergence(counts, then), rel=1e-12)
    assert found.missing == pytest.approx(7 / 43, rel=1e-12)
    served = [value for value in now.tolist() if value == value]
    spread = np.std(known)
    assert found.mean_shift == pytest.approx(abs(np.mean(served) - np.mean(known)) / spread, rel=1e-9)
    assert found.variance_ratio == pytest.approx(np.var(served) / np.var(known), rel=1e-9)
    reach = max(abs(value - np.mean(known)) for value in known)
    assert found.outside == pytest.approx(sum(abs(v - np.mean(known)) > reach for v in served) / len(served), abs=1e-12)


def test_vectors_match_sums_over_rows() -> None:
    generator = np.random.default_rng(5)
    training, now = generator.normal(size=(53, 4)), 3.0 * generator.normal(size=(29, 4)) + 1.0
    now[:5] = 0.0
    found = compare_values(Feature("picture", "vector", 4), torch.tensor(now), torch.tensor(training))
    served, centre = now[5:], training.mean(0)
    spread = sum(float(((row - centre) ** 2).sum()) for row in training) / 53
    assert found.missing == pytest.approx(5 / 29, rel=1e-12)
    assert found.mean_shift == pytest.approx(np.linalg.norm(served.mean(0) - centre) / math.sqrt(spread), rel=1e-9)
    ratio = sum(float(((row - served.mean(0)) ** 2).sum()) for row in served) / 24 / spread
    assert found.variance_ratio == pytest.approx(ratio, rel=1e-9)
    reach = max(float(((row - centre) ** 2).sum()) for row in training)
    outside = sum(float(((row - centre) ** 2).sum()) > reach for row in served) / 24
    assert 0 < outside < 1
    assert found.outside == pytest.approx(outside, rel=1e-12)
    assert (found.entropy, found.js_divergence) == (None, None)


def test_divergence_is_that_of_scipy() -> None:
    distance = pytest.importorskip("scipy.spatial.distance")
    first, second = torch.rand(11, dtype=torch.float64), torch.rand(11, dtype=torch.float64)
    expected = distance.jensenshannon(first.numpy(), second.numpy(), base=2) ** 2
    assert jensen_shannon(first, second) == pytest.approx(expected, rel=1e-10)
    assert jensen_shannon(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 9.0])) == 1.0


def slow_share(encode: Callable[[dict[str, Tensor]], Tensor], inputs: dict[str, Tensor], name: str) -> float:
    """Every row against every other row, one at a time."""
    rows = len(inputs[name])
    states = [encode({key: column[i : i + 1] for key, column in inputs.items()})[0] for i in range(rows)]
    mean = [sum(float(state[d]) for state in states) / rows for d in range(len(states[0]))]
    variance = sum((float(state[d]) - mean[d]) ** 2 for state in states for d in range(len(mean))) / (rows - 1)
    moved = 0.0
    for i in range(rows):
        for j in range(rows):
            if i != j:
                row = {key: column[i : i + 1] for key, column in inputs.items()}
                changed = encode({**row, name: inputs[name][j : j + 1]})[0]
                moved += float(((changed - states[i]) ** 2).sum())
    return moved / (rows * (rows - 1)) / (2.0 * variance)


def test_shares_match_a_double_loop_on_a_crooked_tower() -> None:
    generator = torch.Generator().manual_seed(6)
    inputs = {
        "a": torch.randn(13, 2, generator=generator, dtype=torch.float64),
        "b": torch.randn(13, generator=generator, dtype=torch.float64),
        "c": torch.full((13,), 2.0, dtype=torch.float64),
    }

    def encode(x: dict[str, Tensor]) -> Tensor:
        return torch.stack([x["a"][:, 0] * x["b"], torch.tanh(x["a"][:, 1] + x["c"]), x["b"] ** 2], dim=1)

    shares = variance_shares(encode, inputs, shifts=12)
    for name in inputs:
        assert shares[name] == pytest.approx(slow_share(encode, inputs, name), rel=1e-10), name
    assert shares["c"] == 0.0


def test_shares_of_a_linear_tower_are_known_in_closed_form() -> None:
    # z = Σ W_j x_j: the share of j is tr(W_j S_j W_jᵀ) / tr(Cov z), whatever the correlations.
    generator = torch.Generator().manual_seed(7)
    inputs = {
        "a": torch.randn(31, 2, generator=generator, dtype=torch.float64),
        "b": torch.randn(31, 3, generator=generator, dtype=torch.float64),
    }
    inputs["b"][:, 0] += inputs["a"][:, 0]
    maps = {name: torch.randn(columns.shape[1], 5, dtype=torch.float64) for name, columns in inputs.items()}
    states = sum(inputs[name] @ maps[name] for name in inputs)
    shares = variance_shares(lambda x: x["a"] @ maps["a"] + x["b"] @ maps["b"], inputs, shifts=30)
    total = torch.as_tensor(states).T.cov().trace()
    for name, values in inputs.items():
        expected = (maps[name].T @ values.T.cov() @ maps[name]).trace() / total
        assert shares[name] == pytest.approx(expected.item(), rel=1e-10)


def test_shares_of_independent_inputs_that_add_up_sum_to_one() -> None:
    a, b, c = torch.meshgrid(*(torch.arange(float(n), dtype=torch.float64) for n in (3, 4, 5)), indexing="ij")
    inputs = {"a": a.flatten(), "b": b.flatten(), "c": c.flatten()}
    shares = variance_shares(lambda x: torch.stack([x["a"] + 2 * x["b"], x["c"]], dim=1), inputs, shifts=59)
    assert sum(share for share in shares.values() if share is not None) == pytest.approx(1.0, rel=1e-12)


def test_few_shifts_estimate_all() -> None:
    generator = torch.Generator().manual_seed(8)
    inputs = {name: torch.randn(700, generator=generator) for name in "ab"}

    def encode(x: dict[str, Tensor]) -> Tensor:
        return torch.stack([x["a"] * 3.0, x["b"], x["a"] * x["b"]], dim=1)

    every, few = variance_shares(encode, inputs, shifts=699), variance_shares(encode, inputs)
    for name in inputs:
        assert few[name] == pytest.approx(every[name], rel=0.05)


def test_directions_filled_is_one_over_the_mean_squared_cosine() -> None:
    for rows, dim in ((7, 3), (3, 11)):
        states = torch.randn(rows, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
        total = 0.0
        for first in states:
            for second in states:
                total += float(first @ second / (first.norm() * second.norm())) ** 2
        assert directions_filled(states) == pytest.approx(rows * rows / total, rel=1e-10)
