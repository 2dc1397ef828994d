"""In which order an epoch visits its rows, and which rows share a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from twotower.core.seeds import torch_generator


def random_batches(num_rows: int, batch_size: int, *, seed: int, epoch: int) -> list[Tensor]:
    """A random partition of the rows, the same for the same seed and epoch, whatever came before.

    Args:
        num_rows: rows to visit.
        batch_size: rows a batch; the last one may hold fewer.
        seed: of the run.
        epoch: counted from 0.
    """
    return list(torch.randperm(num_rows, generator=torch_generator(seed, "order", epoch)).split(batch_size))
