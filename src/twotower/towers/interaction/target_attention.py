"""Scaled dot-product attention from a query to the history."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from twotower.towers.interaction.base import PairwiseUnit


class TargetAttention(PairwiseUnit):
    """Sum softmax(W_q q · W_k item / sqrt(dim)) times item over the history; zero for an empty history.

    Args:
        dim: width of query and item.
    """

    padding_logit = float("-inf")

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.query_map = nn.Linear(dim, dim, bias=False)
        self.key_map = nn.Linear(dim, dim, bias=False)

    def row_logits(
        self, keys: Float[Tensor, "pairs dim"], queries: Float[Tensor, "pairs dim"]
    ) -> Float[Tensor, " pairs"]:
        """Return the scaled inner product of pair i."""
        return (self.key_map(keys) * self.query_map(queries)).sum(dim=1) * self.width**-0.5

    def all_logits(
        self, keys: Float[Tensor, "keys dim"], queries: Float[Tensor, "queries dim"]
    ) -> Float[Tensor, "keys queries"]:
        """Return the scaled inner products of all pairs."""
        return self.key_map(keys) @ self.query_map(queries).T * self.width**-0.5

    def weights(self, logits: Float[Tensor, "rows length queries"]) -> Float[Tensor, "rows length queries"]:
        """Return the softmax over the places that are present."""
        return torch.softmax(logits, dim=1).nan_to_num(0.0)  # an empty history made 0 / 0
