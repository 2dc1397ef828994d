"""Vectors of items that are scored: by their ids and features, or by features alone."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import Items
from twotower.core.schema import Schema
from twotower.towers.embedding import FeatureEmbedding
from twotower.towers.table import Table


def check_item_id(schema: Schema, item_id: bool) -> bool:
    """Return ``item_id``, whether items have a vector of their own.

    Raises:
        InputError: if they have neither that nor features.
    """
    if not item_id and not schema.item_features:
        raise InputError("model.item_id = false leaves nothing of an item: this data set has no item features")
    return item_id


def item_vectors(items: Items, table: Table, fields: FeatureEmbedding, *, item_id: bool) -> Float[Tensor, "rows dim"]:
    """Return one vector an item: its id's row of the table and the mean of its features', or the latter alone."""
    if fields.features and items.features is not None:
        means = fields(items.features).mean(1)
        return table(items.ids) + means if item_id else means
    if not item_id:
        raise ValueError("items that are scored by their features alone came without them")
    vectors: Tensor = table(items.ids)
    return vectors
