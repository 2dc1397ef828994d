import pytest
import torch

from twotower.ops.windows import windows


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
