"""Fields of users and items: one embedding a feature, shared by candidates and histories."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from twotower.core.records import PADDING, Items, Users
from twotower.core.schema import Schema
from twotower.towers.embedding import FeatureEmbedding
from twotower.towers.item_features import ItemFeatures
from twotower.towers.table import DenseTable, mean_of_rows


class ItemFields(ItemFeatures):
    """Embed the item's id and features, for candidates and for the items of a history alike.

    Args:
        schema: of the data.
        dim: width of one field.
        std: standard deviation of the tables' entries when training starts; None: 1 / sqrt(dim).
    """

    def __init__(self, schema: Schema, *, dim: int, std: float | None = None) -> None:
        super().__init__(schema)
        self.count = 1 + len(schema.item_features)
        self.width = self.count * dim
        self.ids = DenseTable(schema.num_items, dim, std=std)
        self.features = FeatureEmbedding(schema.item_features, dim=dim, std=std)

    def forward(self, items: Items) -> Float[Tensor, "rows fields dim"]:
        """Return one vector a field; the id comes first."""
        ids = self.ids(items.ids)[:, None]
        if not self.features.features:
            return ids
        return torch.cat([ids, self.features(self._values(items))], dim=1)

    def of_history(self, history: Int[Tensor, "rows length"]) -> Float[Tensor, "rows length width"]:
        """Return the concatenated fields of each item of a history; zero where padded."""
        return self.of_ids(history) * (history != PADDING)[:, :, None]

    def of_present(
        self, history: Int[Tensor, "rows length"]
    ) -> tuple[Float[Tensor, "places width"], Int[Tensor, " places"]]:
        """Return the concatenated fields of the present items, row by row, and their places in the flat history."""
        flat = history.flatten()
        place = flat.nonzero()[:, 0]  # the one wait for the GPU
        return self.of_ids(flat.index_select(0, place)), place

    def of_ids(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape width"]:
        """Return the concatenated fields of items by id alone."""
        if not self.features.features:
            return self.ids(ids)
        self._need_attached()
        if ids.numel() >= self.num_items:  # cheaper to embed each item once
            return F.embedding(ids, self._table(), padding_idx=PADDING)
        return self._by_id(ids.flatten()).view(*ids.shape, self.width)

    def pooled_history(self, history: Int[Tensor, "rows length"]) -> Float[Tensor, "rows fields dim"]:
        """Return the mean of the history's fields, field by field; zero for an empty history."""
        if self.features.features and history.numel() < self.num_items:
            present = (history != PADDING).sum(dim=1, keepdim=True).clamp(min=1)
            mean = self.of_history(history).sum(dim=1) / present
        else:
            mean = mean_of_rows(self._table(), history)
        return mean.unflatten(-1, (self.count, -1))

    def _table(self) -> Float[Tensor, "items width"]:
        """The concatenated fields of every item."""
        if not self.features.features:
            return self.ids.whole()
        self._need_attached()
        return self._by_id(torch.arange(self.num_items, device=self.attached.device))

    def _by_id(self, ids: Tensor) -> Tensor:
        return self(Items(ids, self._columns(ids))).flatten(1)


class UserFields(nn.Module):
    """Embed the user's features, and the user's id where it is used.

    Args:
        schema: of the data.
        dim: width of one field.
        user_id: whether the id is a field; only users of the training log gain by it.
    """

    def __init__(self, schema: Schema, *, dim: int, user_id: bool) -> None:
        super().__init__()
        self.dim = dim
        self.count = user_id + len(schema.user_features)
        self.width = self.count * dim
        self.ids = DenseTable(schema.num_users, dim) if user_id else None
        self.features = FeatureEmbedding(schema.user_features, dim=dim)

    def forward(self, users: Users) -> Float[Tensor, "rows fields dim"]:
        """Return one vector a field; there may be none."""
        parts = [] if self.ids is None else [self.ids(users.ids)[:, None]]
        if self.features.features:
            parts.append(self.features(users.features))
        return torch.cat(parts, dim=1) if parts else users.ids.new_zeros(users.ids.shape[0], 0, self.dim).float()
