"""DeepFM as an interaction unit: pairwise products of fields beside a network over them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from twotower.towers.fc_stack import FCStack
from twotower.towers.interaction.base import InteractionUnit


class DeepFM(InteractionUnit):
    """Sum the pairwise products of the fields of query and mean history, and add a network over all.

    Source: DeepFM (Guo et al., IJCAI 2017), sections 2.1.1 and 2.1.2. Difference: it feeds the user tower, so the
    products stay a vector [dim of one field] and the network ends in its hidden layer.

    Args:
        dim: width of query and history item.
        fields: how many fields that is.
        hidden: widths of the network.
    """

    def __init__(self, dim: int, *, fields: int, hidden: Sequence[int] = (64, 32)) -> None:
        super().__init__()
        if dim % fields:
            raise ValueError(f"{fields} fields do not divide a width of {dim}")
        self.fields = fields
        self.deep = FCStack(2 * dim, hidden, batch_norm=False)
        self.width = dim // fields + self.deep.width

    def forward(
        self,
        queries: Float[Tensor, "rows query_dim"],
        history: Float[Tensor, "rows length dim"],
        present: Bool[Tensor, "rows length"],
    ) -> Float[Tensor, "rows width"]:
        """Return the vector of row i's history for row i's query."""
        return self._cross(queries, _mean(history, present))

    def shared(
        self,
        queries: Float[Tensor, "queries query_dim"],
        history: Float[Tensor, "rows length dim"],
        present: Bool[Tensor, "rows length"],
    ) -> Float[Tensor, "rows queries width"]:
        """Return the vector of every row's history, whose mean is taken once, for every query."""
        shape = (len(history), len(queries), -1)
        return self._cross(queries[None].expand(shape), _mean(history, present)[:, None].expand(shape))

    def _cross(self, queries: Tensor, pooled: Tensor) -> Tensor:
        joined = torch.cat([queries, pooled], dim=-1)
        fields = joined.unflatten(-1, (2 * self.fields, -1))
        products = (fields.sum(dim=-2).square() - fields.square().sum(dim=-2)) / 2
        return torch.cat([products, self.deep(joined)], dim=-1)


def _mean(history: Tensor, present: Tensor) -> Tensor:
    total = (history * present[:, :, None]).sum(dim=1)
    return total / present.sum(dim=1, keepdim=True).clamp(min=1)
