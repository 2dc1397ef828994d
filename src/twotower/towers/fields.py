"""Fields of users and items: one embedding a feature, shared by candidates and histories."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from twotower.core.errors import InputError
from twotower.core.records import PADDING, Features, Items, Users
from twotower.core.schema import Feature, Schema
from twotower.towers.embedding import FeatureEmbedding
from twotower.towers.table import DenseTable, mean_of_rows


class ItemFields(nn.Module):
    """Embed the item's id and features, for candidates and for the items of a history alike.

    A history holds ids alone, so the features of all items are kept here as buffers: `attach` fills them, and they
    are saved with the weights. Without item features nothing needs attaching.

    Args:
        schema: of the data.
        dim: width of one field.
        std: standard deviation of the tables' entries when training starts; None: 1 / sqrt(dim).
    """

    attached: Tensor

    def __init__(self, schema: Schema, *, dim: int, std: float | None = None) -> None:
        super().__init__()
        self.num_items = schema.num_items
        self.count = 1 + len(schema.item_features)
        self.width = self.count * dim
        self.ids = DenseTable(schema.num_items, dim, std=std)
        self.features = FeatureEmbedding(schema.item_features, dim=dim, std=std)
        self.register_buffer("attached", torch.tensor(not schema.item_features))
        self._seen_attached = False
        for feature in schema.item_features:
            self.register_buffer(_buffer(feature), _empty_column(feature, schema.num_items))

    def attach(self, items: Items) -> None:
        """Keep the features of all items: row number = id.

        Raises:
            InputError: if there is not one row an item, in order, or a feature is missing.
        """
        if items.ids.tolist() != list(range(self.num_items)):
            raise InputError(f"attach the features of all {self.num_items} items in the order of their ids")
        values = self._values(items)
        for feature in self.features.features:
            self.get_buffer(_buffer(feature)).copy_(values[feature.name])
        self.attached.fill_(True)

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

    def _need_attached(self) -> None:
        if (
            self._seen_attached or torch.compiler.is_compiling()
        ):  # reading the buffer would make every request wait for the GPU
            return
        if not self.attached:
            raise InputError("the history's item features are not attached; call attach_items(dataset.all_items())")
        self._seen_attached = True

    def _by_id(self, ids: Tensor) -> Tensor:
        columns = {feature.name: self.get_buffer(_buffer(feature))[ids] for feature in self.features.features}
        return self(Items(ids, columns)).flatten(1)

    def _values(self, items: Items) -> Features:
        missing = [f.name for f in self.features.features if f.name not in (items.features or {})]
        if missing:
            raise InputError(f"items came without their feature '{missing[0]}'; look them up with dataset.items(ids)")
        return items.features or {}


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


def _buffer(feature: Feature) -> str:
    return f"all_{feature.name}"


def _empty_column(feature: Feature, rows: int) -> Tensor:
    if feature.kind in ("multi_categorical", "text"):
        return torch.zeros(rows, feature.width, dtype=torch.int64)
    if feature.is_discrete:
        return torch.zeros(rows, dtype=torch.int64)
    return torch.zeros(rows) if feature.kind == "numeric" else torch.zeros(rows, feature.size)
