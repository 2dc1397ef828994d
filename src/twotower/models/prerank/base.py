"""Base of the pre-ranking models: two stacks of layers over the fields of users and items."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import Items, Users
from twotower.core.schema import Schema
from twotower.models.base import Model
from twotower.scorers.temperature import Temperature
from twotower.towers.fields import ItemFields, UserFields


class PreRanker(Model):
    """Embed the fields of both sides and hold a temperature; the subclass makes states and scores of them.

    The user's fields are its features, its id where asked for, and the history averaged field by field.
    """

    recipe = "pre_ranking"

    def __init__(
        self,
        schema: Schema,
        *,
        field_dim: int,
        user_id: bool,
        history_length: int,
        temperature: float,
        learn_temperature: bool,
    ) -> None:
        super().__init__()
        self.schema = schema
        self.history_length = checked_history_length(history_length)
        self.item_fields = ItemFields(schema, dim=field_dim)
        self.user_fields = UserFields(schema, dim=field_dim, user_id=user_id)
        self.num_user_fields = self.user_fields.count + self.item_fields.count
        self.temperature = Temperature(temperature, learnable=learn_temperature)

    def attach_items(self, items: Items) -> None:
        """Keep the features of all items for those of a history; needed once, before training."""
        self.item_fields.attach(items)

    def logit_scale(self) -> Tensor:
        """Return 1 / temperature."""
        return self.temperature.scale()

    def embed_users(self, users: Users) -> Float[Tensor, "rows fields dim"]:
        """Return the user's fields, the history's last."""
        return torch.cat([self.user_fields(users), self.item_fields.pooled_history(users.history)], dim=1)

    def embed_items(self, items: Items) -> Float[Tensor, "rows fields dim"]:
        """Return the item's fields; features that did not come with the ids are looked up."""
        if items.features is None:
            return self.item_fields.of_ids(items.ids).unflatten(1, (self.item_fields.count, -1))
        return self.item_fields(items)


def checked_history_length(length: int) -> int:
    """Return the length, if it is valid.

    Raises:
        InputError: if it is below 1.
    """
    if length < 1:
        raise InputError(f"history_length = {length}: a pre-ranker reads at least one item of a history")
    return length
