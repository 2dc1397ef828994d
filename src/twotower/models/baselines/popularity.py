"""Popularity: everybody gets the items with the most training events."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from twotower.core.records import FIRST_KNOWN, Items, Users
from twotower.core.schema import Schema
from twotower.data.log import Log
from twotower.models.base import ClosedForm


class Popularity(ClosedForm):
    """Score an item by its number of positive training events, the same for every user."""

    history_length = 1
    counts: Tensor

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        self.schema = schema
        self.register_buffer("counts", torch.zeros(schema.num_items))

    def fit_log(self, log: Log) -> None:
        """Count the positive events of each known item."""
        counts = log.positives().items.bincount(minlength=self.schema.num_items)
        counts[:FIRST_KNOWN] = 0
        self.counts.copy_(counts)

    def encode_users(self, users: Users) -> Float[Tensor, "rows 1"]:
        """Return one, for every user."""
        return self.counts.new_ones(users.ids.shape[0], 1)

    def encode_items(self, items: Items) -> Float[Tensor, "rows 1"]:
        """Return the item's count."""
        return self.counts[items.ids][:, None]
