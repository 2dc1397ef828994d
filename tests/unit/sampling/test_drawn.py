"""Drawn sources and counts: what they refuse, and that draws follow their probabilities."""

import math

import pytest
import torch

from twotower.core.errors import InputError
from twotower.core.records import Batch, Items, Users
from twotower.sampling.counts import ItemCounts
from twotower.sampling.in_batch import InBatch
from twotower.sampling.memory_bank import MemoryBank
from twotower.sampling.mixed import Mixed
from twotower.sampling.popularity import Popularity
from twotower.sampling.sum import Sum
from twotower.sampling.uniform import Uniform


def generator():
    return torch.Generator().manual_seed(0)


def batch_of(items):
    items = torch.tensor(items)
    return Batch(Users(torch.full((len(items),), 2), {}, torch.zeros(len(items), 0)), Items(items))


def shares(source, draws, num_items):
    ids = torch.cat([source.sample(batch_of([2, 3])).ids.flatten() for _ in range(draws)])
    return torch.bincount(ids, minlength=num_items) / len(ids)


def test_uniform_draws_are_uniform():
    found = shares(Uniform(9, 7, generator()), 3000, 9)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.0] + [1 / 7] * 7), rtol=0, atol=0.01)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_popularity_draws_follow_the_power_of_the_counts(power):
    counts = torch.tensor([0, 0, 16, 1, 0, 9, 4, 0])
    found = shares(Popularity(counts, 4, generator(), power=power), 5000, 8)
    weights = [0.0, 0.0] + [count**power if count or not power else 0.0 for count in counts.tolist()[2:]]
    expected = torch.tensor(weights) / sum(weights)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.012)
    assert not found[:2].any()


def test_mixture_is_the_sum_of_what_both_expect():
    counts = ItemCounts(torch.tensor([2, 2, 3]), 6)
    negatives = Mixed([InBatch(counts), Uniform(6, 3, generator())]).sample(batch_of([2, 3, 2]))
    seen = {2: 2 * 2 / 3, 3: 2 * 1 / 3, 4: 0.0, 5: 0.0}  # two other rows
    expected = [math.log(seen[item] + 3 / 4) for item in negatives.ids.tolist()]
    assert negatives.log_q.tolist() == pytest.approx(expected, rel=1e-6)
    assert negatives.in_batch == 3


def test_sum_shares_the_estimate_by_the_number_of_candidates():
    counts = ItemCounts(torch.tensor([2, 2, 3]), 6)
    negatives = Sum([Uniform(6, 3, generator()), InBatch(counts)]).sample(batch_of([2, 3, 2, 2, 3]))
    assert negatives.ids[:5].tolist() == [2, 3, 2, 2, 3]  # in-batch comes first, wherever it stood
    own = [math.log(4 * {2: 2 / 3, 3: 1 / 3}[item]) - math.log(5 / 8) for item in (2, 3, 2, 2, 3)]
    drawn = [math.log(3 / 4) - math.log(3 / 8)] * 3
    assert negatives.log_q.tolist() == pytest.approx(own + drawn, rel=1e-6)
    assert negatives.keep is None


def test_a_sum_of_sources_that_have_not_started_is_empty():
    bank = MemoryBank(4, 2, ItemCounts(torch.tensor([2, 3]), 6))
    assert Sum([bank]).sample(batch_of([2, 3])).ids.tolist() == []


def test_counts_state_unseen_items_and_clip_nothing():
    counts = ItemCounts(torch.tensor([2, 2, 4]), 6)
    assert counts.unseen.tolist() == [3, 5]
    assert counts.log_q(torch.tensor([3])).item() == float("-inf")
    with pytest.raises(InputError, match="catalogue: 2 items have no training event \\(the first is row 3\\)"):
        counts.require_seen(torch.tensor([2, 3, 5, 3]), "catalogue")
    smooth = ItemCounts(torch.tensor([2, 2, 4]), 6, smoothing=1.0)
    assert smooth.log_q(torch.arange(2, 6)).exp().tolist() == pytest.approx([3 / 7, 1 / 7, 2 / 7, 1 / 7])
    smooth.require_seen(torch.arange(2, 6), "catalogue")


def test_bad_input_is_one_clear_line():
    counts = torch.tensor([0, 0, 3, 0, 1])
    with pytest.raises(InputError, match="4 asked of 3 items"):
        Uniform(5, 4, generator())
    with pytest.raises(InputError, match="0 asked of 3 items"):
        Uniform(5, 0, generator())
    with pytest.raises(InputError, match="3 asked of 2 items that can be drawn"):
        Popularity(counts, 3, generator())
    with pytest.raises(InputError, match="power must be 0 or more"):
        Popularity(counts, 1, generator(), power=-1.0)
    with pytest.raises(InputError, match="no events"):
        ItemCounts(torch.tensor([], dtype=torch.int64), 5)
    with pytest.raises(InputError, match="ids must lie in 2 to 4"):
        ItemCounts(torch.tensor([1, 3]), 5)
    with pytest.raises(InputError, match="smoothing"):
        ItemCounts(torch.tensor([2, 3]), 5, smoothing=-1.0)
    with pytest.raises(InputError, match="at least one source"):
        Sum([])
    seen = ItemCounts(torch.tensor([2, 3]), 5)
    with pytest.raises(InputError, match="two in-batch sources"):
        Sum([InBatch(seen), InBatch(seen)]).sample(batch_of([2, 3]))
    with pytest.raises(InputError, match="shared by all rows"):
        Mixed([InBatch(seen), Uniform(5, 2, generator(), per_row=True)]).sample(batch_of([2, 3]))


@pytest.mark.bad_input
def test_a_mixture_needs_sources_that_know_any_item():
    with pytest.raises(InputError, match="MemoryBank does not know how likely any item is"):
        Mixed([MemoryBank(4, 2, ItemCounts(torch.tensor([2, 3]), 6))])


def test_a_draw_on_a_boundary_is_no_item_of_probability_zero(monkeypatch):
    """The lowest number that can be drawn is 0, where padding, unknown and item 2 without events end."""
    source = Popularity(torch.tensor([0, 0, 0, 3, 0, 3]), 2, generator(), power=1.0)
    at_boundaries = torch.tensor([0.0, 0.5], dtype=torch.float64)
    monkeypatch.setattr(torch, "rand", lambda *shape, **more: at_boundaries)
    assert source.sample(batch_of([3])).ids.tolist() == [3, 5]
