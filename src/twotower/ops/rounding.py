"""Rounding by chance: a sum of many small steps keeps its mean in few bits."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from twotower.ops.uniform_by_id import mixed

_LOW = (1 << 32) - 1


def rounded_to_bfloat16(values: Float[Tensor, " n"], salt: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Round float32 numbers to one of the two nearest in bfloat16: in the mean over salts to the number itself.

    Args:
        values: float32, finite.
        salt: numbers whose bits draw which one: the same salt and value are rounded alike, on any device.

    Examples:
        >>> thousand = torch.full((1000,), 1.001)
        >>> found = rounded_to_bfloat16(thousand, torch.arange(1000.0))
        >>> found.dtype, sorted(set(found.tolist()))
        (torch.bfloat16, [1.0, 1.0078125])
    """
    bits = values.contiguous().view(torch.int32)
    salted = mixed(salt.float().contiguous().view(torch.int32).long() & _LOW)
    chance = mixed(salted ^ (bits.long() & _LOW)) >> 16
    # The lower 16 bits are what bfloat16 leaves out; a carry out of them is the next number up.
    return ((bits.long() + chance) >> 16 << 16).to(torch.int32).view(torch.float32).to(torch.bfloat16)
