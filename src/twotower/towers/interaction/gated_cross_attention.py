"""Gated cross-attention: vectors of one side enriched by those of the other."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class GatedCrossAttention(nn.Module):
    """Add attention over the other side's vectors, through a gate.

    z + sigmoid(G [z || a] + g) * a, with a = softmax(W_q z · W_k o / sqrt(dim)) W_v o over the other side's o.

    Source: RankTower (Yan and Li, arXiv 2407.12385), the gated cross-attention network; the gate's form is ours.

    Args:
        dim: width of either side's vectors.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.gate_own = nn.Linear(dim, dim)
        self.gate_other = nn.Linear(dim, dim, bias=False)

    def forward(
        self, own: Float[Tensor, "*#rows heads dim"], other: Float[Tensor, "*#rows others dim"]
    ) -> Float[Tensor, "*#rows heads dim"]:
        """Return the enriched vectors of ``own`` for each pair of rows; leading axes broadcast."""
        weights = torch.softmax(self.query(own) @ self.key(other).mT * own.shape[-1] ** -0.5, dim=-1)
        attended = weights @ self.value(other)
        return own + torch.sigmoid(self.gate_own(own) + self.gate_other(attended)) * attended
