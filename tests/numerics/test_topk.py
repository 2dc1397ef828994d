"""Top k against sorting in Python, with many ties, in every cut into tiles."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.ops.ragged import expand
from twotower.ops.tiles import masked_tiles
from twotower.ops.topk import merge, top_k, top_k_of_tiles


def slow_top_k(scores: list[list[float]], k: int) -> tuple[list[list[float]], list[list[int]]]:
    values, ids = [], []
    for row in scores:
        allowed = [(-score, column) for column, score in enumerate(row) if score != -math.inf]
        best = sorted(allowed)[:k]
        values.append([-score for score, _ in best] + [-math.inf] * (k - len(best)))
        ids.append([column for _, column in best] + [-1] * (k - len(best)))
    return values, ids


def coarse_scores(rows: int, columns: int, seed: int, spread: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(-spread, spread + 1, (rows, columns), generator=generator).double()
    return scores.masked_fill(torch.rand(rows, columns, generator=generator) < 0.2, -math.inf)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("rows", "columns", "k"), [(3, 11, 4), (5, 2, 7), (1, 1, 1), (4, 300, 9), (0, 5, 2), (6, 13, 13)]
)
def test_matches_sorting(rows, columns, k, dtype):
    scores = coarse_scores(rows, columns, seed=columns).to(dtype)
    found = top_k(scores, k)
    values, ids = slow_top_k(scores.tolist(), k)
    assert found.ids.tolist() == ids
    assert found.scores.tolist() == values


@settings(deadline=None, max_examples=150)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 45), st.integers(0, 10_000), st.sampled_from([2, 20]))
def test_tiles_have_no_effect(columns, k, tile, seed, spread):
    scores = coarse_scores(3, columns, seed, spread)
    tiles = [(start, scores[:, start : start + tile]) for start in range(0, columns, tile)]
    whole, cut = top_k(scores, k), top_k_of_tiles(tiles, k)
    assert cut.ids.equal(whole.ids)
    assert cut.scores.equal(whole.scores)
    assert whole.ids.tolist() == slow_top_k(scores.tolist(), k)[1]


def test_a_tie_at_the_cut_alone_is_put_in_order_again():
    found = top_k(torch.tensor([[1.0, 5.0, 3.0, 1.0]]), 3)
    assert found.ids.tolist() == [[1, 2, 0]]
    assert found.scores.tolist() == [[5.0, 3.0, 1.0]]


def test_scores_are_not_written_to():
    scores = coarse_scores(4, 30, 1)
    before = scores.clone()
    top_k(scores, 5)
    assert scores.equal(before)


def test_merge_puts_the_lower_id_first():
    left, right = top_k(torch.tensor([[2.0, 2.0]]), 2), top_k(torch.tensor([[2.0, 3.0]]), 2)
    found = merge(left, right._replace(ids=right.ids + 2))
    assert found.ids.tolist() == [[3, 0]]


def test_k_below_one_and_no_tiles_are_refused():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        top_k(torch.zeros(2, 3), 0)
    with pytest.raises(ValueError, match="at least one tile"):
        top_k_of_tiles([], 3)


@pytest.mark.parametrize("tile", [1, 2, 3, 7, 100])
def test_masked_tiles_leave_out_the_named_pairs(tile):
    users, items = torch.randn(3, 2), torch.randn(7, 2)
    rows, columns = torch.tensor([0, 2, 2]), torch.tensor([6, 0, 3])
    expected = users @ items.T
    expected[rows, columns] = -math.inf
    tiles = list(masked_tiles(lambda u, i: u @ i.T, users, items, tile, (rows, columns)))
    assert [start for start, _ in tiles] == list(range(0, 7, tile))
    torch.testing.assert_close(torch.cat([scores for _, scores in tiles], dim=1), expected)


def test_expand_lists_every_entry():
    starts, ends = torch.tensor([4, 4, 0, 9]), torch.tensor([7, 4, 2, 10])
    rows, positions = expand(starts, ends)
    assert list(zip(rows.tolist(), positions.tolist(), strict=True)) == [
        (0, 4), (0, 5), (0, 6), (2, 0), (2, 1), (3, 9)
    ]  # fmt: skip
