"""Random: the baseline that every other model has to beat."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from twotower.core.records import Items, Users
from twotower.core.schema import Schema
from twotower.core.seeds import torch_generator
from twotower.data.log import Log
from twotower.models.base import ClosedForm


class Random(ClosedForm):
    """Score by fixed random vectors on the unit sphere: an order per user, the same at each call.

    No item is favoured over all users, since all item vectors are equally long.

    Args:
        dim: width of the vectors; at low width, users' orders resemble each other more.
        seed: of the vectors.
    """

    history_length = 1
    user_table: Tensor
    item_table: Tensor

    def __init__(self, schema: Schema, *, dim: int = 32, seed: int = 0) -> None:
        super().__init__()
        if dim < 2:
            raise ValueError(f"dim must be at least 2, got {dim}")
        self.schema = schema
        for side, count in (("user", schema.num_users), ("item", schema.num_items)):
            table = torch.randn(count, dim, generator=torch_generator(seed, "random", side))
            self.register_buffer(f"{side}_table", F.normalize(table, dim=1))

    def fit_log(self, log: Log) -> None:
        """Learn nothing."""

    def encode_users(self, users: Users) -> Float[Tensor, "rows dim"]:
        """Return the user's vector."""
        return self.user_table[users.ids]

    def encode_items(self, items: Items) -> Float[Tensor, "rows dim"]:
        """Return the item's vector."""
        return self.item_table[items.ids]
