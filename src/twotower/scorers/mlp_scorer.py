"""Scorer that reads both vectors by a network."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from twotower.core.errors import InputError
from twotower.scorers.tiles import in_tiles


class MLPScorer(nn.Module):
    """Score by MLP([user || item]), ReLU between the layers.

    The first layer is a sum of a user part and an item part, each computed once a row, so that scoring all pairs never
    joins the vectors. Source: FIT (Xiong et al., SIGIR 2025), equation 9.

    Args:
        dim: width of either vector.
        hidden: widths of the hidden layers, at least one.
    """

    inner_product = False

    def __init__(self, *, dim: int, hidden: Sequence[int] = (64,)) -> None:
        super().__init__()
        if not hidden or min(hidden) < 1:
            raise ValueError(f"an MLP scorer needs hidden layers of at least 1, got {list(hidden)}")
        self.dim = dim
        self.user_part = nn.Linear(dim, hidden[0])
        self.item_part = nn.Linear(dim, hidden[0], bias=False)
        widths = [*hidden, 1]
        self.rest = nn.ModuleList(nn.Linear(wide, narrow) for wide, narrow in pairwise(widths))

    def prepare(self, vectors: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
        """Return the tower's output itself, as the state to store."""
        return vectors

    def forward(
        self, users: Float[Tensor, "users dim"], items: Float[Tensor, "items dim"]
    ) -> Float[Tensor, "users items"]:
        """Score every user with every item."""
        self._check(users, items)
        users, items = self.user_part(users), self.item_part(items)
        return in_tiles(lambda some, others: self._finish(some[:, None] + others[None]), users, items)

    def pairs(self, users: Float[Tensor, "rows dim"], items: Float[Tensor, "rows *n dim"]) -> Float[Tensor, "rows *n"]:
        """Score row i of users with row i of items, or with each of its n items."""
        self._check(users, items)
        user_part = self.user_part(users)
        return self._finish((user_part if items.ndim == users.ndim else user_part[:, None]) + self.item_part(items))

    def _finish(self, hidden: Tensor) -> Tensor:
        for layer in self.rest:
            hidden = layer(torch.relu(hidden))
        return hidden[..., 0]

    def _check(self, users: Tensor, items: Tensor) -> None:
        if users.shape[-1] != self.dim or items.shape[-1] != self.dim:
            raise InputError(
                f"this scorer takes vectors of width {self.dim}, got {tuple(users.shape)} and {tuple(items.shape)}"
            )
