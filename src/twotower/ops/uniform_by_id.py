"""Random numbers that belong to an id: drawn by its row and column, not by what was drawn before."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from twotower.core.seeds import derive

_LOW = (1 << 32) - 1
_ODD = 0x45D9F3B
"""Below 2²⁷, so that its product with a number of 32 bits fits an int64."""


def uniform_by_id(ids: Int[Tensor, " rows"], dim: int, *, seed: int) -> Float[Tensor, "rows dim"]:
    """Draw numbers in [−1, 1), one row an id, float32: the same for the same id and seed, in any company.

    Whole numbers are mixed and made a float in one exact step, so that every device gives the same bits.

    Examples:
        >>> both = uniform_by_id(torch.tensor([7, 9]), 3, seed=0)
        >>> bool((both[1] == uniform_by_id(torch.tensor([9]), 3, seed=0)[0]).all())
        True
    """
    first, second, third = (derive(seed, "uniform by id", part) & _LOW for part in range(3))
    rows = mixed(mixed((ids & _LOW) ^ first) + (ids >> 32) & _LOW ^ second)
    columns = mixed(torch.arange(dim, device=ids.device) ^ third)
    numbers = mixed(mixed((rows[:, None] + columns) & _LOW) ^ first)
    return (numbers >> 8).float() * 2.0**-23 - 1.0


def mixed(numbers: Tensor) -> Tensor:
    """Permute the numbers below 2³², so that each bit of the input moves half of the output's."""
    for _ in range(2):
        numbers = ((numbers >> 16) ^ numbers) * _ODD & _LOW
    return (numbers >> 16) ^ numbers
