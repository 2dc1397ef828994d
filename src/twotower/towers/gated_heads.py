"""Heads with gates: one vector projected into several, each through its own input gate."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class GatedHeads(nn.Module):
    """Project one vector into several heads through input gates.

    z^h = W^h (x * sigmoid(G^h x + g^h)) + b^h: each head chooses which numbers of x it reads.

    Source: RankTower (Yan and Li, arXiv 2407.12385), the multi-head gated network; the gate's form is ours.

    Args:
        width_in: numbers that go in.
        heads: how many vectors come out.
        dim: width of each.
    """

    def __init__(self, width_in: int, *, heads: int, dim: int) -> None:
        super().__init__()
        if min(width_in, heads, dim) < 1:
            raise ValueError(f"heads and their width must be at least 1, got {heads} and {dim}")
        self.heads = heads
        self.gate = nn.Linear(width_in, heads * width_in)
        self.maps = nn.ModuleList(nn.Linear(width_in, dim) for _ in range(heads))

    def forward(self, inputs: Float[Tensor, "rows width_in"]) -> Float[Tensor, "rows heads dim"]:
        """Return the heads of each row."""
        gates = torch.sigmoid(self.gate(inputs)).unflatten(1, (self.heads, -1))
        return torch.stack([linear(inputs * gates[:, head]) for head, linear in enumerate(self.maps)], dim=1)
