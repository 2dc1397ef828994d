"""Coverage, Gini and popularity bias against loops over recommendations."""

from __future__ import annotations

import math

import pytest
import torch

from twotower.metrics.beyond_accuracy import beyond_accuracy, gini


def slow_figures(counts: list[int], popularity: list[int]) -> dict[str, float]:
    items, total = len(counts), sum(counts)
    apart = sum(abs(a - b) for a in counts for b in counts)
    recommended = [item for item, count in enumerate(counts) for _ in range(count)]
    percentile = [
        (sum(other < mine for other in popularity) + 0.5 * popularity.count(mine)) / items for mine in popularity
    ]
    head = sorted(range(items), key=lambda item: (-popularity[item], item))[: math.ceil(items / 10)]
    return {
        "coverage": len(set(recommended)) / items,
        "gini": apart / (2 * items * total),
        "mean_popularity": sum(popularity[item] for item in recommended) / total,
        "popularity_percentile": sum(percentile[item] for item in recommended) / total,
        "top_decile_share": sum(item in head for item in recommended) / total,
    }


@pytest.mark.parametrize("items", [1, 7, 10, 33])
def test_matches_loops(items):
    generator = torch.Generator().manual_seed(items)
    counts = torch.randint(0, 5, (items,), generator=generator)
    popularity = torch.randint(0, 6, (items,), generator=generator)
    counts[0] = 3
    found = beyond_accuracy(counts, popularity)
    for name, value in slow_figures(counts.tolist(), popularity.tolist()).items():
        assert found[name] == pytest.approx(value, rel=1e-12), name


def test_gini_at_both_ends():
    assert gini(torch.tensor([4, 4, 4, 4])) == 0.0
    assert gini(torch.tensor([0, 0, 0, 9])) == 0.75


def test_no_recommendation_is_refused():
    with pytest.raises(ValueError, match="nothing was recommended"):
        beyond_accuracy(torch.zeros(4, dtype=torch.int64), torch.ones(4, dtype=torch.int64))
