"""Base of cold-start models that learn from a factorisation of the training log."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from twotower.core.records import FIRST_KNOWN, Features, Users
from twotower.core.schema import Schema
from twotower.data.log import Log
from twotower.models.base import Model
from twotower.models.cold.factors import factorise
from twotower.towers.embedding import FeatureEmbedding, dropped_fields
from twotower.towers.table import mean_of_rows


class Factored(Model):
    """Hold the vectors of a factorised log, and a user's input: its features beside the mean vector of its history.

    The history's mean stands for a preference; it is zero for a new user, and in training for a drawn share of rows, so
    that features alone serve. Factors are taken from the training log before the first step and are not trained; a
    refresh keeps them, and learns from the users that they were made of.

    Args:
        schema: of the data.
        factor_dim: width of the factors.
        field_dim: width of one feature's embedding.
        history_length: latest items of the history that are read; 0: none, features alone.
        preference_dropout: share of training rows whose preference is set to zero.
        feature_dropout: share of features, each by itself, that are missing in training.
        confidence: α of the factorisation.
        regularisation: λ of the factorisation.
    """

    user_factors: Tensor
    item_factors: Tensor
    factored: Tensor
    recipe = "own_loss"

    def __init__(
        self,
        schema: Schema,
        *,
        factor_dim: int,
        field_dim: int,
        history_length: int,
        preference_dropout: float,
        feature_dropout: float,
        confidence: float,
        regularisation: float,
    ) -> None:
        super().__init__()
        if min(factor_dim, field_dim) < 1 or history_length < 0:
            raise ValueError("widths must be at least 1 and history_length at least 0")
        if not 0.0 <= preference_dropout <= 1.0:
            raise ValueError(f"dropout of the preference must be in [0, 1], got {preference_dropout}")
        if not 0.0 <= feature_dropout < 1.0:
            raise ValueError(f"feature_dropout must be in [0, 1), got {feature_dropout}")
        if confidence <= 0.0 or regularisation <= 0.0:
            raise ValueError(f"confidence and regularisation must be positive, got {confidence} and {regularisation}")
        if not history_length and not schema.user_features:
            raise ValueError("users have no features, so history_length must be at least 1")
        self.schema, self.history_length = schema, history_length
        self.factor_dim, self.preference_dropout = factor_dim, preference_dropout
        self.feature_dropout = feature_dropout
        self.confidence, self.regularisation = confidence, regularisation
        self.user_fields = FeatureEmbedding(schema.user_features, dim=field_dim)
        self.register_buffer("user_factors", _drawn(schema.num_users, factor_dim))
        self.register_buffer("item_factors", _drawn(schema.num_items, factor_dim))
        self.register_buffer("factored", torch.zeros(schema.num_users, dtype=torch.bool))

    @property
    def user_width(self) -> int:
        """Return the numbers of `user_input`."""
        return self.user_fields.width + (self.factor_dim if self.history_length else 0)

    def start_from(self, log: Log) -> None:
        """Fit the factorisation of the training log."""
        found = factorise(
            log,
            self.schema.num_items,
            self.factor_dim,
            confidence=self.confidence,
            regularisation=self.regularisation,
        )
        self.user_factors.copy_(found.users)
        self.item_factors.copy_(found.items)
        self.factored.copy_(log.positives().lengths > 0)

    def user_input(self, users: Users) -> Float[Tensor, "rows width"]:
        """Return the user's features, embedded, and its preference."""
        parts = [self.fields(self.user_fields, users.features)] if self.user_fields.features else []
        if self.history_length:
            preference = self.preference(users)
            if self.training:
                preference = preference * self.kept(len(preference), self.preference_dropout)[:, None]
            parts.append(preference)
        return torch.cat(parts, dim=1)

    def fields(self, embed: FeatureEmbedding, features: Features) -> Float[Tensor, "rows width"]:
        """Return embedded features end to end, in training some of them missing."""
        return dropped_fields(embed(features), self.feature_dropout if self.training else 0.0).flatten(1)

    def preference(self, users: Users) -> Float[Tensor, "rows factor_dim"]:
        """Return the mean of the history's item factors; zero without a history."""
        return mean_of_rows(self.item_factors, users.history)

    def kept(self, rows: int, dropout: float) -> Bool[Tensor, " rows"]:
        """Draw which rows keep an input."""
        return torch.rand(rows, device=self.item_factors.device) >= dropout


def _drawn(rows: int, dim: int) -> Float[Tensor, "rows dim"]:
    """Vectors that stand there until the log is factorised; zero for padding and unknown ids."""
    vectors = dim**-0.5 * torch.randn(rows, dim)
    vectors[:FIRST_KNOWN] = 0.0
    return vectors
