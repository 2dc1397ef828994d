"""Heads: one vector projected into several, each in a sub-space of its own."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from twotower.core.errors import InputError


class Heads(nn.Module):
    """Project z^h = W^h x + b^h for h = 1 … heads, as one matrix product.

    Source: FIT (Xiong et al., SIGIR 2025), equations 11 and 12. Difference: heads may be put on the unit sphere, so
    that similarities are cosines and a temperature can scale them.

    Args:
        width_in: numbers that go in.
        heads: how many vectors come out.
        dim: width of each.
        normalise: whether each has length 1.
    """

    def __init__(self, width_in: int, *, heads: int, dim: int, normalise: bool = False) -> None:
        super().__init__()
        if min(width_in, heads, dim) < 1:
            raise ValueError(f"heads and their width must be at least 1, got {heads} and {dim}")
        self.heads = heads
        self.normalise = normalise
        self.linear = nn.Linear(width_in, heads * dim)

    def forward(self, inputs: Float[Tensor, "*rows width_in"]) -> Float[Tensor, "*rows heads dim"]:
        """Return the heads of each row."""
        heads = self.linear(inputs).unflatten(-1, (self.heads, -1))
        return F.normalize(heads, dim=-1) if self.normalise else heads


def checked_head_dim(dim: int, user_heads: int, item_heads: int) -> int:
    """Return the width of one head when ``dim`` numbers are stored an item.

    Raises:
        InputError: if ``item_heads`` does not divide ``dim``, or a count is below 1.
    """
    if min(dim, user_heads, item_heads) < 1:
        raise InputError(f"dim and heads must be at least 1, got {dim}, {user_heads} and {item_heads}")
    if dim % item_heads:
        raise InputError(f"item_heads = {item_heads} does not divide dim = {dim}; every head is as wide as the others")
    return dim // item_heads
