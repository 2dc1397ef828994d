"""Decay, stability, repeats and k-means seeds against slow references."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from twotower.core.seeds import torch_generator
from twotower.diagnosis.decay import decay_figures, decay_test
from twotower.diagnosis.neighbours import NOISE, chord_distances, duplicates, near_duplicate_share, stability
from twotower.diagnosis.statistics import measure
from twotower.diagnosis.vectors import Vectors


def slow_elbow(values: list[float]) -> tuple[float, int]:
    """Best share of the line's squared residual that two joined, flattening pieces remove; and their rank from 1."""
    rank = np.arange(len(values), dtype=float)
    y = np.array(values)

    def residual(columns: list[np.ndarray]) -> tuple[float, np.ndarray]:
        design = np.stack(columns, axis=1)
        weights = np.linalg.solve(design.T @ design, design.T @ y)
        return float(((y - design @ weights) ** 2).sum()), weights

    line, _ = residual([np.ones_like(rank), rank])
    best, where = 0.0, 0
    for elbow in range(1, len(values) - 2):
        bent, weights = residual([np.ones_like(rank), rank, np.maximum(rank - elbow, 0)])
        if weights[2] > 0 and 1 - bent / line > best:
            best, where = 1 - bent / line, elbow + 1
    return best, where


def gaps(queries: int, ranks: int, seed: int = 0) -> torch.Tensor:
    draw = np.random.default_rng(seed)
    return torch.from_numpy(0.9 - 0.01 * draw.exponential(size=(queries, ranks)).cumsum(1))


def test_the_elbow_is_the_one_of_least_squares() -> None:
    curves = gaps(9, 12)
    curves[0] = torch.tensor([0.9, 0.8, 0.7, 0.6] + [0.6 - 0.001 * i for i in range(1, 9)])
    found = decay_test(curves)
    for row, curve in enumerate(curves.tolist()):
        gain, where = slow_elbow(curve)
        assert int(found.elbows[row]) == where
        # the same order of gains gives the reverse order of p-values
        for other in range(row):
            if slow_elbow(curves[other].tolist())[0] > gain:
                assert found.p_values[other] <= found.p_values[row]
    assert int(found.elbows[0]) == 4
    assert found.p_values[0] < 0.01


def test_an_even_density_is_rejected_at_the_level() -> None:
    rejected = (decay_test(gaps(4000, 20, seed=5)).p_values < 0.05).double().mean().item()
    assert rejected == pytest.approx(0.05, abs=0.015)


def test_shapes_of_decay() -> None:
    assert decay_figures(gaps(300, 20))[0]["decay_shape"] == "linear"
    elbowed = torch.tensor([0.9, 0.8, 0.7, 0.6] + [0.6 - 0.001 * i for i in range(1, 17)]).repeat(30, 1)
    figures, curves = decay_figures(elbowed)
    assert figures == {"decay_shape": "elbowed", "decay_elbowed_share": 1.0, "decay_elbow_rank": 4}
    assert curves["mean"] == pytest.approx(elbowed[0].tolist())
    flat, _ = decay_figures(torch.full((3, 20), 0.5))
    assert flat["decay_shape"] is None


def test_stability_is_the_share_of_neighbours_kept() -> None:
    draw = np.random.default_rng(0)
    unit = draw.normal(size=(97, 6))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    queries = [4, 50, 96, 13]
    noise = torch.randn(4, 6, generator=torch_generator(7, "noise"), dtype=torch.float64).numpy()
    kept = []
    before = []
    for place, query in enumerate(queries):
        others = [j for j in range(97) if j != query]
        first = sorted(others, key=lambda j: -unit[query] @ unit[j])[:10]
        moved = unit[query] + NOISE * noise[place] / np.sqrt((noise[place] ** 2).sum())
        second = sorted(others, key=lambda j: -moved @ unit[j])[:10]
        before.append(first)
        kept.append(len(set(first) & set(second)) / 10)
    shift = torch.from_numpy(draw.normal(size=6))
    rows = torch.from_numpy(unit)
    chunks = iter((rows - shift).split(23))
    found = stability(rows[queries], torch.tensor(queries), torch.tensor(before), chunks, 7)
    assert found == pytest.approx(np.mean(kept))
    assert 0.5 < found < 1.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_duplicates_are_counted_as_unique_rows_are(dtype: type) -> None:
    draw = np.random.default_rng(0)
    vectors = draw.integers(-1, 2, size=(400, 5)).astype(dtype)
    vectors[0, 0] = -0.0
    assert duplicates(Vectors(vectors)) == 400 - len(np.unique(vectors + 0.0, axis=0))
    assert duplicates(Vectors(draw.normal(size=(400, 5)).astype(dtype))) == 0


def test_columns_that_change_places_are_not_duplicates() -> None:
    vectors = np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0], [2.0, 1.0, 3.0], [1.0, 2.0, 3.0]])
    assert duplicates(Vectors(vectors)) == 1


def test_near_duplicates() -> None:
    draw = np.random.default_rng(1)
    unit = torch.from_numpy(draw.normal(size=(30, 8)))
    unit[11] = unit[3] + 1e-6
    unit = unit / unit.norm(dim=1, keepdim=True)
    whole = torch.cdist(unit, unit, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
    two = whole.topk(2, largest=False)
    found = chord_distances(lambda index: unit[index], torch.arange(30), two.indices)
    torch.testing.assert_close(found, two.values)
    assert near_duplicate_share(found, 1.0) == pytest.approx(2 / 30)


def test_a_shift_of_all_vectors_changes_raw_figures_only() -> None:
    # adding one vector to all changes raw figures only
    vectors = np.random.default_rng(2).normal(size=(120, 7))
    here, there = measure(Vectors(vectors)), measure(Vectors(vectors + 4.0))
    for name in ("rankme", "participation_ratio", "mean_cosine", "hubness", "top20_min"):
        assert here.centred[name] == pytest.approx(there.centred[name], abs=1e-9)
        assert here.statistics[name] != pytest.approx(there.statistics[name], abs=1e-3)
    assert here.statistics["silhouette"] == pytest.approx(there.statistics["silhouette"], abs=1e-9)
