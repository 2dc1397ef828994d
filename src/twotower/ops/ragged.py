"""Ragged rows as flat pairs (row, position), by index arithmetic alone."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor


def expand(
    starts: Int[Tensor, " rows"], ends: Int[Tensor, " rows"]
) -> tuple[Int[Tensor, " entries"], Int[Tensor, " entries"]]:
    """Return the row and the position of every entry of ``starts[i]:ends[i]``, row after row.

    Examples:
        >>> expand(torch.tensor([5, 0]), torch.tensor([7, 1]))
        (tensor([0, 0, 1]), tensor([5, 6, 0]))
    """
    lengths = ends - starts
    rows = torch.arange(len(starts), device=starts.device).repeat_interleave(lengths)
    before = lengths.cumsum(0) - lengths
    return rows, torch.arange(len(rows), device=starts.device) + (starts - before)[rows]
