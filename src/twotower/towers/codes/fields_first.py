"""A user's features as the first events of its history, so that one encoder reads both."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from twotower.core.records import Features
from twotower.core.schema import Feature
from twotower.towers.embedding import FeatureEmbedding, dropped_fields


class FieldsFirst(nn.Module):
    """Put one vector a feature before the vectors of a history; without features the history stays as it is.

    Source: SparCode (Su et al., SIGIR 2023), figure 2 and section 4.1.2, where the tokenizer reads a user's feature
    fields (Deezer) or its behaviour (MovieLens); that it reads both, one after the other, is ours.

    Args:
        features: of users; none for a tokenizer of histories alone.
        dim: width of a vector.
        dropout: share of features, each by itself, that are missing in training.
    """

    def __init__(self, features: tuple[Feature, ...], *, dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"feature_dropout must be in [0, 1), got {dropout}")
        self.dropout = dropout
        self.fields = FeatureEmbedding(features, dim=dim)

    @property
    def count(self) -> int:
        """Return how many events the features make."""
        return len(self.fields.features)

    def forward(
        self, features: Features, history: Float[Tensor, "rows length dim"], lengths: Int[Tensor, " rows"]
    ) -> tuple[Float[Tensor, "rows places dim"], Int[Tensor, " rows"]]:
        """Return the events of each row, padded at the end, and how many there are."""
        if not self.count:
            return history, lengths
        fields = dropped_fields(self.fields(features), self.dropout if self.training else 0.0)
        return torch.cat([fields, history], dim=1), lengths + self.count
