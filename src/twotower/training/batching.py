"""In which order an epoch visits its rows, and which rows share a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from twotower.core.seeds import torch_generator

POOL = 16
"""Batches whose rows are sorted by length together: enough to cut padding, few enough to stay random."""


def random_batches(
    num_rows: int, batch_size: int, *, seed: int, epoch: int, lengths: Tensor | None = None
) -> list[Tensor]:
    """A random partition of the rows, the same for the same seed and epoch, whatever came before.

    Args:
        num_rows: rows to visit.
        batch_size: rows a batch; the last one may hold fewer.
        seed: of the run.
        epoch: counted from 0.
        lengths: int64 [num_rows]; rows of like length then share a batch, within pools of 16 random batches.
    """
    generator = torch_generator(seed, "order", epoch)
    order = torch.randperm(num_rows, generator=generator)
    if lengths is None:
        return list(order.split(batch_size))
    batches: list[Tensor] = []
    for pool in order.split(batch_size * POOL):
        by_length = pool[lengths[pool].argsort(stable=True)]
        batches += by_length.split(batch_size)
    return [batches[place] for place in torch.randperm(len(batches), generator=generator).tolist()]
