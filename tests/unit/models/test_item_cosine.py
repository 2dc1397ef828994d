"""Item cosine of large catalogues: the same lists from the pairs that are there, and memory that is asked for first."""

import pytest
import torch

from twotower.core.errors import InputError
from twotower.core.schema import Schema
from twotower.data.log import Log
from twotower.models.baselines import item_cosine
from twotower.models.baselines.item_cosine import ItemCosine
from twotower.ops import memory


def drawn(users: int, items: int, events: int) -> tuple[Schema, Log]:
    generator = torch.Generator().manual_seed(4)
    ids = 2 + (torch.rand(users * events, generator=generator).square() * items).long().clamp(max=items - 1)
    offsets = torch.cat([torch.zeros(2, dtype=torch.int64), torch.arange(users + 1) * events])
    return Schema(num_users=users + 2, num_items=items + 2), Log(offsets, ids)


@pytest.mark.parametrize("shrink", [0.0, 3.0])
@pytest.mark.parametrize("pairs", [1, 500, 1 << 22])
def test_pairs_and_whole_rows_give_the_same_lists(shrink, pairs, monkeypatch):
    schema, log = drawn(users=80, items=60, events=6)
    expected, found = (ItemCosine(schema, neighbours=9, shrink=shrink) for _ in range(2))
    expected.fit_log(log)
    monkeypatch.setattr(item_cosine, "FEW_ITEMS", 0)
    monkeypatch.setattr(item_cosine, "PAIRS", pairs)
    for _ in range(2):  # what an earlier fit has left is gone
        found.fit_log(log)
        assert found.cosines.equal(expected.cosines)
        assert found.nearest.where(found.cosines > 0, 0).equal(expected.nearest.where(expected.cosines > 0, 0))


def test_item_cosine_says_how_much_memory_is_missing_before_it_starts(monkeypatch):
    schema, log = drawn(users=80, items=60, events=6)
    model = ItemCosine(schema, neighbours=9)
    monkeypatch.setattr(memory, "available_memory", lambda: 1.5e8)
    with pytest.raises(InputError, match=r"62 items with 9 neighbours need 0.2 GB, and 0.1 GB of memory"):
        model.fit_log(log)
    assert not model.cosines.any()


@pytest.mark.slow
def test_a_hundred_thousand_items_are_fitted_in_bounded_memory():
    schema, log = drawn(users=20_000, items=100_000, events=10)
    model = ItemCosine(schema, neighbours=10)
    model.fit_log(log)
    item = int(log.items[0])
    assert (model.cosines[item] > 0).any()
    assert (model.cosines.diff(dim=1) <= 0).all()
