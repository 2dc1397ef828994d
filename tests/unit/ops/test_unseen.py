"""Draws of unmet items: against a slow list of each user's unmet items."""

from __future__ import annotations

import pytest
import torch

from twotower.core.errors import InputError
from twotower.data.unseen import Unseen

POOL = torch.tensor([9, 2, 3, 5, 6, 8])  # in no order; items 4 and 7 may not be drawn
MET = {0: [], 1: [3, 4, 3, 9], 2: [2, 9, 8, 5, 6], 3: [4, 7], 4: [2, 3, 5, 6]}


def unseen(met=MET):
    offsets = torch.tensor([0, *(len(items) for items in met.values())]).cumsum(0)
    return Unseen(offsets, torch.tensor([item for items in met.values() for item in items]), POOL, 10)


@pytest.mark.parametrize("user", MET)
def test_every_unmet_item_is_drawn_and_equally_often(user):
    drawn = unseen().draw(torch.full((60_000,), user), torch.Generator().manual_seed(1))
    left = sorted(set(POOL.tolist()) - set(MET[user]))
    counts = drawn.bincount(minlength=10)
    assert counts.nonzero().flatten().tolist() == left
    share = counts[left].double() / 60_000
    assert (share - 1 / len(left)).abs().max() < 0.01  # five standard deviations


def test_rows_draw_for_their_own_user():
    users = torch.tensor([2, 4, 2, 1, 0]).repeat(200)
    drawn = unseen().draw(users, torch.Generator().manual_seed(2))
    assert all(item not in MET[user] for user, item in zip(users.tolist(), drawn.tolist(), strict=True))


def test_one_generator_one_draw():
    users = torch.arange(5).repeat(10)
    one, same, other = (unseen().draw(users, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.bad_input
def test_a_user_who_met_everything_is_refused():
    full = unseen({**MET, 5: POOL.tolist()})
    full.check(torch.tensor([0, 4]))
    with pytest.raises(InputError, match="met every item"):
        full.check(torch.tensor([0, 5]))
