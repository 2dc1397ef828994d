"""Embedding of features: one vector a feature, the first layer of every tower that reads features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from twotower.core.records import FIRST_KNOWN, PADDING, UNKNOWN, Features
from twotower.core.schema import Feature


class FeatureEmbedding(nn.Module):
    """Embed each feature as a vector of width ``dim``, so that fields can be concatenated, weighted or dropped.

    Discrete features look a table up (padding is the zero vector, unknown has a row of its own that learns); rows with
    several values take the mean of those present. A number is standardised by the schema's mean and std, then mapped by
    one linear layer; a missing one is the zero vector. A vector goes through one linear layer; NaN counts as missing.

    Source: the embedding layer of Covington et al., RecSys 2016, section 3; the pooling is its mean.

    Args:
        features: of one side.
        dim: width of each vector.
        std: as of `embedding_table`, for the tables of discrete features.
    """

    def __init__(self, features: tuple[Feature, ...], *, dim: int, std: float | None = None) -> None:
        super().__init__()
        self.features = features
        self.dim = dim
        # A list, since a feature may bear a name that a module cannot, such as "type" or one with a dot.
        self.layers = nn.ModuleList(
            embedding_table(feature.size, dim, std=std) if feature.is_discrete else nn.Linear(feature.size, dim)
            for feature in features
        )

    @property
    def width(self) -> int:
        """Return the numbers a row once its fields are concatenated."""
        return self.dim * len(self.features)

    def forward(self, values: Features) -> Float[Tensor, "rows fields dim"]:
        """Return one vector a field, in the order of the schema."""
        fields = [
            self._field(layer, feature, values[feature.name])
            for layer, feature in zip(self.layers, self.features, strict=True)
        ]
        return torch.stack(fields, dim=1)

    def _field(self, layer: nn.Module, feature: Feature, value: Tensor) -> Tensor:
        if feature.is_discrete:
            assert isinstance(layer, nn.Embedding)
            return layer(value) if value.ndim == 1 else mean_of_rows(layer.weight, value)
        if feature.kind == "numeric":
            value = ((value - feature.mean) / feature.std)[:, None]
        known = value.isfinite().all(dim=1, keepdim=True)
        return torch.where(known, layer(torch.where(known, value, 0.0)), 0.0)


@torch.no_grad()
def settle_unseen(table: nn.Embedding, seen: Tensor, *, unknown_learns: bool) -> None:
    """Put the same vector in all rows of ids without training events: that of the unknown id, where it learns.

    Where it does not, the unknown row takes the mean of the rows that have learnt, and so do they: the best guess of
    one vector. Their own rows are as random as they were drawn, and would rank new items by chance.

    Args:
        table: rows by id, changed in place.
        seen: whether the id has training events: bool [rows].
        unknown_learns: whether training shows the unknown id, as id dropout does.
    """
    weight, new = table.weight, ~seen
    new[:FIRST_KNOWN] = False
    learnt = seen.clone()
    learnt[:FIRST_KNOWN] = False
    if not learnt.any():
        return
    if not unknown_learns:
        weight[UNKNOWN] = weight[learnt].mean(dim=0)
    weight[new] = weight[UNKNOWN].clone()


def embedding_table(rows: int, dim: int, *, std: float | None = None) -> nn.Embedding:
    """Build a table with a zero row for padding and normal entries of this standard deviation.

    None: 1 / sqrt(dim).
    """
    table = nn.Embedding(rows, dim, padding_idx=PADDING)
    with torch.no_grad():
        table.weight.normal_(std=dim**-0.5 if std is None else std)
        table.weight[PADDING].zero_()
    return table


def mean_of_rows(table: Float[Tensor, "entries dim"], ids: Int[Tensor, "rows length"]) -> Float[Tensor, "rows dim"]:
    """Return the mean of the table's rows ``ids`` without padding; zero where all is padding.

    No vector is made for a place.
    """
    if not ids.shape[1]:
        return table.new_zeros(ids.shape[0], table.shape[1])
    return F.embedding_bag(ids, table, mode="mean", padding_idx=PADDING)
