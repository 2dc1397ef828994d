"""Mined lists and hard filters against loops in Python."""

import math

import pytest
import torch

from twotower.core.errors import InputError
from twotower.core.records import Batch, Items, TopK, Users
from twotower.sampling.filters import (
    BelowPositive,
    Hardest,
    HardFilter,
    Scored,
    WithinBatchRadius,
    WithinMargin,
    WithinRadius,
)
from twotower.sampling.index_mined import IndexMined


def generator():
    return torch.Generator().manual_seed(3)


class Search:
    """Ranks items 2, 3, … for even users and 20, 19, … for odd ones; notes its calls."""

    def __init__(self, there=100):
        self.calls, self.there = [], there

    def __call__(self, users, k):
        self.calls.append(users.tolist())
        rank = torch.arange(k)
        ids = torch.where(users[:, None] % 2 == 0, 2 + rank, 20 - rank)
        return TopK(torch.zeros(ids.shape), torch.where(rank < self.there, ids, -1))


def batch_of(users):
    users = torch.tensor(users)
    return Batch(Users(users, {}, torch.zeros(len(users), 0)), Items(torch.full_like(users, 2)))


def test_candidates_come_from_the_window_of_ranks_without_repeats():
    mined = IndexMined(Search(), 9, 3, generator(), first=2, last=6)
    negatives = mined.sample(batch_of([4, 5, 4]))
    for ids, window in zip(
        negatives.ids.tolist(), ({4, 5, 6, 7, 8}, {18, 17, 16, 15, 14}, {4, 5, 6, 7, 8}), strict=True
    ):
        assert set(ids) <= window
        assert len(set(ids)) == 3
    assert negatives.log_q.flatten().tolist() == pytest.approx([math.log(3 / 5)] * 9)


def test_lists_that_are_too_short_keep_what_there_is():
    mined = IndexMined(Search(there=4), 9, 3, generator(), first=2, last=6)
    negatives = mined.sample(batch_of([4]))
    kept = negatives.ids[negatives.keep].tolist()
    assert sorted(kept) == [4, 5]
    assert negatives.log_q[negatives.keep].tolist() == [0.0, 0.0]
    assert mined.covers(batch_of([4])).tolist() == [[4, 5, -1, -1, -1]]


def test_search_is_repeated_on_time():
    search = Search()
    mined = IndexMined(search, 9, 1, generator(), last=3, start=2, refresh=3)
    looks = []
    for _ in range(9):
        negatives = mined.sample(batch_of([4, 5]))
        looks.append((negatives.ids.shape[1], len(search.calls)))
    assert looks == [(0, 0), (0, 0), (1, 1), (1, 1), (1, 1), (1, 2), (1, 2), (1, 2), (1, 3)]
    assert search.calls[0] == [2, 3, 4, 5, 6, 7, 8]


def test_bad_mining_settings_are_one_clear_line():
    for settings in ({"first": -1}, {"first": 3, "last": 2}, {"last": 0}):
        with pytest.raises(InputError, match="asked of the ranks"):
            IndexMined(Search(), 9, 2, generator(), **settings)
    for settings in ({"refresh": 0}, {"start": -1}):
        with pytest.raises(InputError, match="refresh"):
            IndexMined(Search(), 9, 2, generator(), **settings)
    with pytest.raises(InputError, match="known users"):
        IndexMined(Search(), 2, 2, generator())
    with pytest.raises(InputError, match="no user has an item at ranks 5 to 9"):
        IndexMined(Search(there=3), 9, 2, generator(), first=5, last=9).sample(batch_of([4]))


def case(rows=5, candidates=8, dim=3):
    source = torch.Generator().manual_seed(rows)
    users, own, others = (
        torch.randn(size, dim, generator=source, dtype=torch.float64) for size in (rows, rows, candidates)
    )
    keep = torch.rand(rows, candidates, generator=source) < 0.7
    known = ~keep & (torch.rand(rows, candidates, generator=source) < 0.5)
    scored = Scored((users * own).sum(1), users @ others.T, keep, known, own.square().sum(1), others.square().sum(1))
    return users, own, others, scored


def test_hardest_matches_sorting():
    _, _, _, scored = case()
    found = Hardest(3)(scored)
    for row in range(5):
        kept = [j for j in range(8) if scored.keep[row, j]]
        expected = sorted(kept, key=lambda j: -scored.candidates[row, j].item())[:3]
        assert set(found[row].nonzero()[:, 0].tolist()) == set(expected)
    assert torch.equal(Hardest(8)(scored), scored.keep)


def test_within_margin_keeps_the_triplet_loss_s_violations():
    _, _, _, scored = case()
    found = WithinMargin(0.3)(scored)
    for row in range(5):
        for j in range(8):
            violation = 0.3 + scored.candidates[row, j].item() - scored.positive[row].item()
            assert found[row, j].item() == (scored.keep[row, j].item() and violation > 0.0)
    assert found.any()
    assert (scored.keep & ~found).any()


@pytest.mark.parametrize("rule", [WithinMargin(0.3), BelowPositive(0.3)])
def test_a_margin_is_in_units_of_scores_before_the_temperature(rule):
    """Ten times the scores, of ten times the scale, are the same scores at another temperature."""
    _, _, _, scored = case()
    scaled = scored._replace(positive=10 * scored.positive, candidates=10 * scored.candidates, scale=10.0)
    assert torch.equal(rule(scaled), rule(scored))
    assert not torch.equal(rule(scaled._replace(scale=1.0)), rule(scored))


def test_below_positive_matches_the_loop():
    _, _, _, scored = case()
    found = BelowPositive(0.2)(scored)
    for row in range(5):
        for j in range(8):
            low = scored.candidates[row, j].item() <= scored.positive[row].item() - 0.2
            assert found[row, j].item() == (scored.keep[row, j].item() and low)


@pytest.mark.parametrize("own_candidates", [False, True])
def test_the_radius_of_a_batch_matches_distances(own_candidates):
    users, own, others, scored = case()
    if own_candidates:
        scored = scored._replace(candidate_norms=scored.candidate_norms.expand(5, 8))
    found = WithinBatchRadius()(scored)
    for row in range(5):

        def squared(vector, row=row):
            return sum((a - b) ** 2 for a, b in zip(users[row].tolist(), vector.tolist(), strict=True))

        radius = max([squared(own[row]), *(squared(others[j]) for j in range(8) if scored.known[row, j])])
        for j in range(8):
            assert found[row, j].item() == (scored.keep[row, j].item() and squared(others[j]) <= radius)
    assert found.any()
    assert (scored.keep & ~found).any()


def test_filters_are_filters_and_refuse_bad_settings():
    _, _, _, scored = case()
    for member in (Hardest(1), BelowPositive(0.0), WithinMargin(0.0), WithinBatchRadius(), WithinRadius()):
        assert isinstance(member, HardFilter)
    with pytest.raises(InputError, match="at least 1"):
        Hardest(0)
    with pytest.raises(InputError, match="inner products"):
        WithinBatchRadius()(scored._replace(candidate_norms=None))
    with pytest.raises(InputError, match="farthest"):
        WithinRadius()(scored)
    empty = Scored(torch.zeros(2), *(torch.zeros(2, 0, dtype=kind) for kind in (torch.float32, torch.bool, torch.bool)))
    empty = empty._replace(positive_norms=torch.ones(2), candidate_norms=torch.ones(0), farthest=torch.ones(2))
    for member in (Hardest(1), BelowPositive(0.0), WithinMargin(0.0), WithinBatchRadius(), WithinRadius()):
        assert member(empty).shape == (2, 0)
