from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from twotower.core.states import detach, from_tensors, join, map_state, rows, take, to_tensors


class Heads(NamedTuple):
    index: Tensor
    heads: Tensor


def plain(count: int) -> Tensor:
    return torch.arange(count * 3.0).reshape(count, 3)


def heads(count: int) -> Heads:
    return Heads(torch.arange(count), torch.arange(count * 8.0).reshape(count, 2, 4))


def tensors(state):
    return [state] if isinstance(state, Tensor) else list(state)


@pytest.mark.parametrize("make", [plain, heads])
@pytest.mark.parametrize(
    "index", [slice(1, 4), torch.tensor([4, 0, 0]), torch.tensor([True, False, True, True, False])]
)
def test_take_cuts_every_tensor_alike(make, index):
    state = make(5)
    taken = take(state, index)
    assert type(taken) is type(state)
    for whole, part in zip(tensors(state), tensors(taken), strict=True):
        assert torch.equal(part, whole[index])
    assert rows(taken) == 3


@pytest.mark.parametrize("make", [plain, heads])
def test_join_undoes_cutting(make):
    state = make(7)
    joined = join([take(state, slice(0, 2)), take(state, slice(2, 2)), take(state, slice(2, 7))])
    assert type(joined) is type(state)
    assert rows(joined) == 7
    for a, b in zip(tensors(joined), tensors(state), strict=True):
        assert torch.equal(a, b)


def test_join_of_nothing_says_so():
    with pytest.raises(ValueError, match="at least one state"):
        join([])


@pytest.mark.parametrize(("make", "kind"), [(plain, None), (heads, Heads)])
def test_stored_states_come_back(make, kind):
    state = make(4)
    back = from_tensors(to_tensors(take(state, torch.tensor([3, 1]))), kind)
    assert type(back) is type(state)
    for a, b in zip(tensors(back), tensors(take(state, torch.tensor([3, 1]))), strict=True):
        assert torch.equal(a, b)


def test_stored_tensors_are_contiguous():
    assert to_tensors(plain(4).T)["state"].is_contiguous()


def test_states_of_another_kind_are_refused():
    with pytest.raises(ValueError, match="another model's states"):
        from_tensors(to_tensors(plain(2)), Heads)
    with pytest.raises(ValueError, match="another model's states"):
        from_tensors(to_tensors(heads(2)))


def test_detach_and_map_reach_every_tensor():
    state = Heads(torch.ones(2, requires_grad=True) * 1, torch.ones(2, 3, requires_grad=True) * 1)
    assert all(part.requires_grad for part in state)
    assert not any(part.requires_grad for part in detach(state))
    assert [part.tolist() for part in map_state(lambda part: part.sum(), state)] == [2.0, 6.0]
