"""Windows of a ragged array as padded rows, by index arithmetic alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int, Shaped
from torch import Tensor


def windows(
    values: Shaped[Tensor, " events"], starts: Int[Tensor, " rows"], ends: Int[Tensor, " rows"], length: int
) -> Shaped[Tensor, "rows length"]:
    """Return the last ``length`` of ``values[starts[i]:ends[i]]`` for each row, in order, padded at the end with 0.

    Examples:
        >>> windows(torch.tensor([5, 6, 7, 8]), torch.tensor([0, 3]), torch.tensor([3, 4]), 2)
        tensor([[6, 7],
                [8, 0]])
    """
    return windows_of_all([values], starts, ends, length)[0]


def windows_of_all(
    arrays: Sequence[Shaped[Tensor, " events"]], starts: Int[Tensor, " rows"], ends: Int[Tensor, " rows"], length: int
) -> list[Shaped[Tensor, "rows length"]]:
    """Return `windows` of each of ``arrays``, all as long as the first: where they lie is computed once.

    Examples:
        >>> items, times = torch.tensor([5, 6, 7, 8]), torch.tensor([10, 20, 30, 40])
        >>> [part.tolist() for part in windows_of_all([items, times], torch.tensor([0]), torch.tensor([3]), 2)]
        [[[6, 7]], [[20, 30]]]
    """
    starts = torch.maximum(starts, ends - length)
    index = starts[:, None] + torch.arange(length, device=starts.device)
    outside = index >= ends[:, None]
    if not len(arrays[0]):
        return [values.new_zeros(len(starts), length) for values in arrays]
    index.clamp_(max=len(arrays[0]) - 1)
    return [values[index].masked_fill_(outside, 0) for values in arrays]


def places(lengths: Int[Tensor, " rows"], width: int, total: int) -> Int[Tensor, " filled"]:
    """Return where rows of ``width`` places, filled from the left and flattened, are filled: row after row, in order.

    ``total`` is the sum of ``lengths``; that it is given saves the host from waiting for a GPU.

    Examples:
        >>> places(torch.tensor([2, 0, 1]), 3, 3)
        tensor([0, 1, 6])
    """
    row = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths, output_size=total)
    before = lengths.cumsum(0) - lengths
    return row * width + torch.arange(total, device=lengths.device) - before[row]


def longest_of(lengths: Int[Tensor, " rows"], width: int) -> int:
    """Return the length of the longest row, at least 1; in a compiled or captured graph ``width``, one for all calls.

    Examples:
        >>> longest_of(torch.tensor([2, 3]), 10), longest_of(torch.tensor([0]), 10)
        (3, 1)
    """
    if torch.compiler.is_compiling() or (lengths.is_cuda and torch.cuda.is_current_stream_capturing()):
        return width
    return max(1, int(lengths.max())) if len(lengths) else 1
