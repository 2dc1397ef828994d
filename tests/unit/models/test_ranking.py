"""Ranking of given candidates: order, ties, lists of different length, bad candidates."""

from __future__ import annotations

import pytest
import torch

from twotower.core import states
from twotower.core.errors import InputError
from twotower.models.base import attach_items
from twotower.models.fit.model import FIT
from twotower.models.fit.states import compact
from twotower.models.rank import rank
from twotower.models.two_tower import TwoTower


@pytest.fixture(params=["fit", "two_tower", "compact"])
def case(request, tiny_dataset):
    if request.param == "two_tower":
        model = TwoTower(tiny_dataset.schema, dim=4, field_dim=4, hidden=(6,))
    else:
        model = FIT(tiny_dataset.schema, dim=6, hidden=(8, 6), field_dim=4, meta_queries=5)
        attach_items(model, tiny_dataset.all_items())
    model.eval()
    items = model.encode_items(tiny_dataset.all_items())
    if request.param == "compact":
        items = compact(items, "int8")
    users = tiny_dataset.users(torch.tensor([2, 4]), torch.tensor([[2, 3, 4], [7, 0, 0]]))
    return model, users, items


def by_hand(model, users, items, row, candidates, k):
    scores = model.score(model.encode_users(users), states.take(items, torch.tensor(candidates)))[row].tolist()
    return [item for _, item in sorted(zip([-s for s in scores], candidates, strict=True))][:k]


def test_states_whose_row_numbers_are_no_ids(case):
    model, users, items = case
    with pytest.raises(InputError, match=r"8 item states, but the model knows 10 ids: give those of dataset.all_items"):
        rank(model, users, states.take(items, slice(2, None)), torch.tensor([2, 3]))
    more = states.join([items, states.take(items, torch.tensor([4]))])  # an item that came after training
    scores = dict(
        zip(*(part[0].tolist() for part in reversed(rank(model, users, more, torch.tensor([4, 10, 3])))), strict=True)
    )
    assert scores[10] == pytest.approx(scores[4], abs=1e-6)


@pytest.mark.parametrize("k", [1, 3, 5, None])
def test_one_list_for_all(case, k):
    candidates = [9, 2, 7, 3, 5]
    found = rank(*case, torch.tensor(candidates), k)
    for row in range(2):
        assert found.ids[row].tolist() == by_hand(*case, row, candidates, k)
    assert (found.scores.diff(dim=1) <= 0).all()


def test_a_list_for_each_user(case):
    lists = [[9, 2, 7], [3, 8, -1]]
    found = rank(*case, torch.tensor(lists))
    assert found.ids[0].tolist() == by_hand(*case, 0, lists[0], 3)
    assert found.ids[1].tolist() == [*by_hand(*case, 1, [3, 8], 2), -1]
    assert found.scores[1, 2] == -torch.inf


def test_order_of_candidates_has_no_effect(case):
    one, other = (rank(*case, torch.tensor(ids), 3) for ids in ([2, 5, 7, 9], [9, 7, 2, 5]))
    assert torch.equal(one.ids, other.ids)
    assert torch.equal(one.scores, other.scores)


def test_equal_scores_go_by_id(tiny_dataset):
    model = TwoTower(tiny_dataset.schema, dim=4, field_dim=4, hidden=(6,)).eval()
    users = tiny_dataset.users(torch.tensor([2]), torch.tensor([[2]]))
    assert rank(model, users, torch.ones(10, 4), torch.tensor([8, 3, 5]), 2).ids.tolist() == [[3, 5]]


def test_more_asked_for_than_there_is(case):
    found = rank(*case, torch.tensor([4, 6]), 4)
    assert found.ids[:, 2:].eq(-1).all()
    assert found.scores[:, 2:].eq(-torch.inf).all()


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        (torch.tensor([], dtype=torch.int64), "no candidates to rank"),
        (torch.zeros(2, 0, dtype=torch.int64), "no candidates to rank"),
        (torch.tensor([2, 5, 2]), "candidate 2 stands twice"),
        (torch.tensor([2, 10]), "candidate 10 is not a known item; those are 2 to 9"),
        (torch.tensor([1, 2]), "candidate 1 is not a known item"),
        (torch.tensor([0, 2]), "candidate 0 is not"),
        (torch.tensor([-1, 2]), "candidate -1 is not"),
        (torch.tensor([[2, 3], [4, 4]]), "candidate 4 stands twice"),
        (torch.tensor([[2, 3], [4, -2]]), "candidate -2 is not"),
        (torch.tensor([[2, 3]]), "2 users came with 1 lists"),
        (torch.tensor([2.0, 3.0]), "whole numbers"),
        (torch.tensor(3), "whole numbers"),
    ],
)
def test_bad_candidates(case, candidates, message):
    with pytest.raises(InputError, match=message) as caught:
        rank(*case, candidates)
    assert "\n" not in str(caught.value)
