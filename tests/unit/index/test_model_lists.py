"""Lists of a model's own codes: every code has one, or those that users have."""

from __future__ import annotations

import pytest
import torch

from twotower.core.errors import InputError
from twotower.index.model_lists import EVERY, ListedCodes


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
