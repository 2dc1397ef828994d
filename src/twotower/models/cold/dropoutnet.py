"""DropoutNet: towers over preferences and features; preferences are dropped in training, so that features serve."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from twotower.core.errors import InputError, unknown_name
from twotower.core.records import FIRST_KNOWN, Batch, Encoded, Items, Users
from twotower.core.schema import Schema
from twotower.models.cold.factored import Factored
from twotower.towers.embedding import FeatureEmbedding
from twotower.towers.registry import build_tower

TARGETS = ("factors", "events")


class DropoutNet(Factored):
    """Map a user's preference and features to one vector, an item's likewise, and score by their inner product.

    A preference is the vector of a factorisation; in training it is dropped for a share of users and of items, each by
    itself, so that the towers also learn to do with features alone, as they must for new users and new items.

    Source: Volkovs, Yu and Poutanen, NIPS 2017: towers of section 4.1, equation 2 as the loss (``target = "factors"``:
    the towers are to give the scores of the factorisation, for all pairs of a batch), and the dropout and transform of
    algorithm 1. Differences: each row draws for itself what a whole batch draws there; a user comes with its own factor
    in a share of rows only, and in serving always by the mean over its history (their transform, section 4.2).
    ``target = "events"``, the objective's own loss in place of equation 2, is EasyRec's form.

    Args:
        dim: width of user and item vectors.
        factor_dim: width of the preferences.
        field_dim: width of one feature's embedding.
        hidden: widths of the hidden layers of each tower.
        tower: name of a registered network: see `twotower.TOWERS`.
        target: "factors": scores are to equal those of the factorisation, and the objective's loss moves nothing;
            "events": the objective's loss alone.
        user_dropout: share of training rows whose user comes without preference.
        item_dropout: share whose item does.
        transform: share of the other users that come by the mean over their history, not by their own factor.
        temperature: scores are divided by it in the objective's loss.
        history_length: latest items of the history that make the preference.
        feature_dropout: share of features, each by itself, that are missing in training.
        batch_norm: whether each layer is normalised over the batch.
        dropout: share of hidden numbers set to 0 in training.
        confidence: α of the factorisation: see `factorise`.
        regularisation: λ of the factorisation.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        dim: int = 64,
        factor_dim: int = 64,
        field_dim: int = 16,
        hidden: Sequence[int] = (128,),
        tower: str = "mlp",
        target: str = "factors",
        user_dropout: float = 0.5,
        item_dropout: float = 0.1,
        transform: float = 0.5,
        temperature: float = 1.0,
        history_length: int = 50,
        feature_dropout: float = 0.0,
        batch_norm: bool = False,
        dropout: float = 0.0,
        confidence: float = 20.0,
        regularisation: float = 10.0,
    ) -> None:
        super().__init__(
            schema,
            factor_dim=factor_dim,
            field_dim=field_dim,
            history_length=history_length,
            preference_dropout=user_dropout,
            feature_dropout=feature_dropout,
            confidence=confidence,
            regularisation=regularisation,
        )
        if not (0.0 <= item_dropout <= 1.0 and 0.0 <= transform <= 1.0 and temperature > 0.0):
            raise ValueError("item_dropout and transform must be in [0, 1], and temperature positive")
        if target not in TARGETS:
            raise unknown_name("model.target", target, TARGETS)
        self.target, self.item_dropout, self.transform, self.temperature = target, item_dropout, transform, temperature
        self.item_fields = FeatureEmbedding(schema.item_features, dim=field_dim)

        def network(width: int) -> torch.nn.Module:
            return build_tower(tower, width, dim, hidden=hidden, dropout=dropout, batch_norm=batch_norm)

        self.user_tower = network(self.user_width)
        self.item_tower = network(self.item_fields.width + factor_dim)

    def encode_users(self, users: Users) -> Float[Tensor, "rows dim"]:
        """Return one vector a user."""
        vectors: Tensor = self.user_tower(self.user_input(users))
        return vectors

    def encode_items(self, items: Items) -> Float[Tensor, "rows dim"]:
        """Return one vector an item."""
        preference = self.item_factors[items.ids]
        if self.training:
            preference = preference * self.kept(len(preference), self.item_dropout)[:, None]
        parts = [self.fields(self.item_fields, items.features or {})] if self.item_fields.features else []
        vectors: Tensor = self.item_tower(torch.cat([*parts, preference], dim=1))
        return vectors

    def preference(self, users: Users) -> Float[Tensor, "rows factor_dim"]:
        """Return the mean over the history, in training for a share of rows the user's own factor."""
        mean = super().preference(users)
        if not self.training:
            return mean
        own = self.kept(len(mean), self.transform) & self.factored[users.ids]
        return torch.where(own[:, None], self.user_factors[users.ids], mean)

    def forward(self, batch: Batch) -> Encoded:
        """Encode users and items; in training also compute equation 2 over all pairs of the batch.

        Raises:
            InputError: if the loss is equation 2 and the objective gives the batch no item features.
        """
        items = None if batch.items.features is None else self.encode_items(batch.items)
        users, losses = self.encode_users(batch.users), {}
        if self.training and self.target == "factors":
            if items is None:
                raise InputError(
                    "dropoutnet: target = 'factors' is computed over the items of a batch, which full_softmax does "
                    "without: set objective.loss = 'sampled_softmax'"
                )
            ids = batch.users.ids
            wanted = self.user_factors[ids], self.item_factors[batch.items.ids]
            losses["factors"] = score_distance(users, items, *wanted, known=self.factored[ids])
        return Encoded(users, items, batch.items.ids, losses)

    def logit_scale(self) -> float:
        """Return 1 / temperature; 0 while equation 2 trains alone, so that the objective's loss moves nothing."""
        return 0.0 if self.training and self.target == "factors" else 1.0 / self.temperature

    @property
    def serves_new_items(self) -> bool:
        """Return whether items have features."""
        return bool(self.schema.item_features)

    @torch.no_grad()
    def settle_items(self, new: Tensor, events: Int[Tensor, " items"], items: Items) -> None:
        """Give items without events the preference that items have in a dropped row: none."""
        self.item_factors[new] = 0.0
        self.item_factors[:FIRST_KNOWN] = 0.0


def score_distance(
    users: Float[Tensor, "rows dim"],
    items: Float[Tensor, "rows dim"],
    user_factors: Float[Tensor, "rows factor_dim"],
    item_factors: Float[Tensor, "rows factor_dim"],
    *,
    known: Bool[Tensor, " rows"],
) -> Float[Tensor, ""]:
    """Return the mean over all pairs of the batch of (û · v̂ − u · v)²; only users that are ``known`` count.

    Source: Volkovs et al., NIPS 2017, equation 2, as a mean.
    """
    distance = (users @ items.T - user_factors @ item_factors.T).square().mean(1)
    return (distance * known).sum() / known.sum().clamp(min=1)
