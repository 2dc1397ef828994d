from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from twotower.ops.windows import windows, windows_of_all


def slow_windows(values, starts, ends, length):
    """List slices: the last ``length`` of each piece, then zeros."""
    pieces = [values[start:end][-length:] if length else [] for start, end in zip(starts, ends, strict=True)]
    return [piece + [0] * (length - len(piece)) for piece in pieces]


@pytest.mark.parametrize("length", [0, 1, 3, 4, 11])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float64])
def test_matches_slices_of_lists(length, dtype):
    values = [5, 3, 8, 9, 2, 7, 4]
    starts, ends = [0, 0, 3, 7, 6, 2], [7, 0, 5, 7, 7, 6]
    found = windows(torch.tensor(values, dtype=dtype), torch.tensor(starts), torch.tensor(ends), length)
    assert found.dtype == dtype
    assert found.shape == (6, length)
    assert found.tolist() == slow_windows(values, starts, ends, length)


def test_nothing_gives_padding():
    zero = torch.zeros(3, dtype=torch.int64)
    assert windows(torch.zeros(0, dtype=torch.int64), zero, zero, 2).tolist() == [[0, 0]] * 3
    assert windows(torch.tensor([4, 5]), zero[:0], zero[:0], 2).shape == (0, 2)


def test_arguments_are_left_as_they_were():
    values, starts, ends = torch.tensor([4, 5, 6]), torch.tensor([0]), torch.tensor([3])
    windows(values, starts, ends, 2)
    assert (values.tolist(), starts.tolist(), ends.tolist()) == ([4, 5, 6], [0], [3])


def test_windows_of_several_arrays_are_those_of_each():
    items, times = torch.tensor([5, 3, 8, 9, 2, 7, 4]), torch.arange(7, dtype=torch.float64) + 0.5
    starts, ends = torch.tensor([0, 0, 3, 7, 2]), torch.tensor([7, 0, 5, 7, 6])
    for length in (0, 1, 3, 11):
        found = windows_of_all([items, times], starts, ends, length)
        assert [part.tolist() for part in found] == [
            windows(part, starts, ends, length).tolist() for part in (items, times)
        ]
        assert [part.dtype for part in found] == [torch.int64, torch.float64]


def test_a_second_array_costs_a_gather_and_a_mask_and_no_arithmetic_of_its_own():
    values, at = torch.tensor([5, 3, 8]), (torch.tensor([0]), torch.tensor([3]))
    with Calls() as one:
        windows_of_all([values], *at, 2)
    with Calls() as two:
        windows_of_all([values, values], *at, 2)
    assert sorted((two.names - one.names).elements()) == ["index", "masked_fill_"]


class Calls(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.names[operation.overloadpacket.__name__] += 1
        return operation(*args, **(kwargs or {}))
