"""Features of all items, kept beside the weights: a history holds ids alone, and a tower wants the features too."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from twotower.core.errors import InputError
from twotower.core.records import PADDING, Features, Items
from twotower.core.schema import Feature, Schema
from twotower.towers.embedding import FeatureEmbedding


class ItemFeatures(nn.Module):
    """Keep the features of all items as buffers, which are saved with the weights.

    `attach` fills them; without item features nothing needs attaching. A subclass gives ``features``, which embeds
    them.

    Args:
        schema: of the data.
    """

    attached: Tensor
    features: FeatureEmbedding

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        self.num_items = schema.num_items
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

    def _need_attached(self) -> None:
        if (
            self._seen_attached or torch.compiler.is_compiling()
        ):  # reading the buffer would make every request wait for the GPU
            return
        if not self.attached:
            raise InputError("the history's item features are not attached; call attach_items(dataset.all_items())")
        self._seen_attached = True

    def _columns(self, ids: Int[Tensor, " rows"]) -> Features:
        return {feature.name: self.get_buffer(_buffer(feature))[ids] for feature in self.features.features}

    def _values(self, items: Items) -> Features:
        missing = [f.name for f in self.features.features if f.name not in (items.features or {})]
        if missing:
            raise InputError(f"items came without their feature '{missing[0]}'; look them up with dataset.items(ids)")
        return items.features or {}


class FeatureSum(ItemFeatures):
    """Sum the vectors of an item's features: what is added to the vector of its id.

    Numbers and vectors start as small as rows of the tables do, so that no feature drowns the id.

    Args:
        schema: of the data.
        dim: width of the sum.
        std: standard deviation of all weights when training starts.
    """

    def __init__(self, schema: Schema, *, dim: int, std: float) -> None:
        super().__init__(schema)
        self.features = FeatureEmbedding(schema.item_features, dim=dim, std=std)
        for layer in self.features.layers:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=std)
                nn.init.zeros_(layer.bias)

    def forward(self, items: Items) -> Float[Tensor, "rows dim"]:
        """Return one vector an item, by the features that come with them, or else by those that are attached."""
        return self.of_ids(items.ids) if items.features is None else self._sum(self._values(items))

    def of_ids(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape dim"]:
        """Return one vector an item by id alone; zero where padded."""
        self._need_attached()
        if not torch.compiler.is_compiling() and ids.numel() >= self.num_items:  # cheaper to embed each item once
            every = self._sum(self._columns(torch.arange(self.num_items, device=ids.device)))
            found = F.embedding(ids, every)
        else:
            found = self._sum(self._columns(ids.flatten())).view(*ids.shape, self.features.dim)
        return found * (ids != PADDING)[..., None]

    def _sum(self, values: Features) -> Tensor:
        return self.features(values).sum(dim=1)


def _buffer(feature: Feature) -> str:
    return f"all_{feature.name}"


def _empty_column(feature: Feature, rows: int) -> Tensor:
    if feature.kind in ("multi_categorical", "text"):
        return torch.zeros(rows, feature.width, dtype=torch.int64)
    if feature.is_discrete:
        return torch.zeros(rows, dtype=torch.int64)
    return torch.zeros(rows) if feature.kind == "numeric" else torch.zeros(rows, feature.size)
