"""Lists of a model's own codes: every code has one, or those that users have."""

from __future__ import annotations

import pytest
import torch

from twotower.core.errors import InputError
from twotower.core.schema import Schema
from twotower.index.model_lists import EVERY, ListedCodes, model_key, named_rows, weights_key


def test_of_few_codes_each_has_its_own_list_and_no_users_are_read():
    codes = ListedCodes(5)
    codes.read_users(torch.tensor([[1, -1]]))
    codes.check_read()
    every = torch.arange(5)
    assert (len(codes), codes.users_wanted) == (5, 0)
    assert codes.numbers(every).equal(every)
    assert codes.of(every).equal(every)


def test_of_many_codes_those_of_users_are_numbered_in_ascending_order():
    codes = ListedCodes(EVERY + 1)
    assert codes.users_wanted > 0
    codes.read_users(torch.tensor([[900, 7], [7, -1]]))
    codes.check_read()
    assert len(codes) == 2
    assert codes.of(torch.tensor([0, 1])).tolist() == [7, 900]
    assert codes.numbers(torch.tensor([[900, 8, -1, 7, EVERY]])).tolist() == [[1, -1, -1, 0, -1]]


def test_many_codes_without_users_and_codes_of_another_model_are_refused():
    codes = ListedCodes(EVERY + 1)
    with pytest.raises(InputError, match=f"of {EVERY + 1} codes only those that users have"):
        codes.check_read()
    codes.read_users(torch.tensor([[-1, -1]]))
    with pytest.raises(InputError, match="it has read no users with codes"):
        codes.check_read()
    codes.read_users(torch.tensor([[3]]))
    with pytest.raises(InputError, match=f"code {EVERY + 1}, but the model has {EVERY + 1}"):
        codes.numbers(torch.tensor([[3, EVERY + 1]]))


class Tower(torch.nn.Module):
    """Tables of users and items, and a layer."""

    def __init__(self, users: int = 9, items: int = 7, width: int = 4) -> None:
        super().__init__()
        self.schema = Schema(users, items)
        self.users, self.items = torch.nn.Embedding(users, width), torch.nn.Embedding(items, width)
        self.scale = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.bfloat16))


def test_a_key_changes_with_any_weight_of_known_users_and_stays_where_items_are_added():
    one = Tower()
    rows = named_rows(one)
    assert rows == {"users.weight": 9, "scale": 0}
    key = model_key(one, rows)
    grown = Tower(items=9)  # now as many as users
    grown.users, grown.scale = one.users, one.scale
    assert model_key(grown, rows) == key
    longer = Tower(users=12)
    with torch.no_grad():
        longer.users.weight[2:9], longer.scale = one.users.weight[2:], one.scale
    assert model_key(longer, rows) == key, "rows of padding and of the unknown id, and rows behind, are no part of it"
    for change in (lambda: one.users.weight[8, 3], lambda: one.scale):
        with torch.no_grad():
            change().add_(0.5)
        assert model_key(one, rows) != key
        key = model_key(one, rows)
    for other in (Tower(users=8), torch.nn.Linear(3, 3)):
        other.schema = one.schema
        assert model_key(other, rows) != key


def test_a_model_with_next_to_nothing_beside_items_is_told_by_these():
    one = Tower(users=7)
    assert set(named_rows(one)) == {"users.weight", "items.weight", "scale"}
    assert weights_key("a", []) != weights_key("b", [])
