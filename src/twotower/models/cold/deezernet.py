"""DeezerNet: features regressed to the vectors of a factorisation; clusters of known users answer for a new one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from twotower.core.errors import unknown_name
from twotower.core.records import FIRST_KNOWN, Batch, Encoded, Items, Users
from twotower.core.schema import Schema
from twotower.core.seeds import torch_generator
from twotower.data.log import Log
from twotower.models.cold.factored import Factored
from twotower.ops.kmeans import kmeans
from twotower.towers.registry import build_tower

ANSWERS = ("vectors", "clusters")
ITERATIONS = 20


class DeezerNet(Factored):
    """Predict the vector that a user would have in a factorisation from its features, and answer with it.

    ``answer = "vectors"``: the inner product with the items' factors (fully personalised). ``"clusters"``: users of the
    training log are clustered by their factors, and a user gets what is popular in the cluster that is nearest to its
    predicted vector (semi-personalised).

    Source: Briand et al., KDD 2021, sections 3.3 (network and regression) and 3.4 (clusters). As there: a feed-forward
    network, mean squared error to the user's factor, both at length 1; k-means of 20 rounds. Differences: the log is
    factorised here by least squares (their UT-ALS); each user weighs the same however many events it has; first events,
    where there are any, come as the mean of their items' factors, as theirs of the day of registration do, and are
    dropped for a share of training rows.

    Args:
        factor_dim: width of the factors, and of user and item vectors.
        field_dim: width of one feature's embedding.
        hidden: widths of the hidden layers.
        tower: name of a registered network: see `twotower.TOWERS`.
        answer: "vectors" or "clusters".
        clusters: of users; fewer where the log has fewer users.
        smoothing: events of the whole log that are mixed into each cluster's counts.
        history_length: latest items of the history that are read; 0: features alone.
        preference_dropout: share of training rows without history.
        feature_dropout: share of features, each by itself, that are missing in training.
        batch_norm: whether each layer is normalised over the batch.
        dropout: share of hidden numbers set to 0 in training.
        confidence: α of the factorisation: see `factorise`.
        regularisation: λ of the factorisation.
    """

    user_weights: Tensor
    centres: Tensor
    popular: Tensor

    def __init__(
        self,
        schema: Schema,
        *,
        factor_dim: int = 64,
        field_dim: int = 16,
        hidden: Sequence[int] = (400, 300),
        tower: str = "mlp",
        answer: str = "vectors",
        clusters: int = 100,
        smoothing: float = 100.0,
        history_length: int = 50,
        preference_dropout: float = 0.5,
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
            preference_dropout=preference_dropout,
            feature_dropout=feature_dropout,
            confidence=confidence,
            regularisation=regularisation,
        )
        if answer not in ANSWERS:
            raise unknown_name("model.answer", answer, ANSWERS)
        if clusters < 1 or smoothing <= 0.0:
            raise ValueError(f"clusters must be at least 1 and smoothing positive, got {clusters} and {smoothing}")
        self.answer, self.smoothing = answer, smoothing
        self.network = build_tower(
            tower, self.user_width, factor_dim, hidden=hidden, dropout=dropout, batch_norm=batch_norm
        )
        self.register_buffer("user_weights", torch.zeros(schema.num_users))
        if answer == "clusters":
            self.register_buffer("centres", torch.zeros(clusters, factor_dim))
            self.register_buffer("popular", torch.zeros(schema.num_items, clusters))

    def start_from(self, log: Log) -> None:
        """Fit the factorisation of the training log, and clusters of its users where clusters answer."""
        super().start_from(log)
        log = log.positives().to(self.user_factors.device)
        self.user_weights.copy_(torch.where(log.lengths > 0, 1.0 / log.lengths.clamp(min=1), 0.0))
        if self.answer == "clusters":
            self._cluster(log)

    def predicted(self, users: Users) -> Float[Tensor, "rows factor_dim"]:
        """Return the predicted factor of each user, at length 1."""
        return F.normalize(self.network(self.user_input(users)), dim=1)

    def encode_users(self, users: Users) -> Float[Tensor, "rows width"]:
        """Return the predicted factor, or 1 at the place of the nearest cluster."""
        return self._answered(self.predicted(users))

    def encode_items(self, items: Items) -> Float[Tensor, "rows width"]:
        """Return the item's factor, or its share of each cluster's events."""
        return self.item_factors[items.ids] if self.answer == "vectors" else self.popular[items.ids]

    def forward(self, batch: Batch) -> Encoded:
        """Encode users and items; in training also compute the regression."""
        predicted, losses = self.predicted(batch.users), {}
        if self.training:
            ids = batch.users.ids
            weights = self.user_weights[ids] * self.factored[ids]
            losses["factors"] = factor_distance(predicted, self.user_factors[ids], weights)
        items = None if batch.items.features is None else self.encode_items(batch.items)
        return Encoded(self._answered(predicted), items, batch.items.ids, losses)

    def logit_scale(self) -> float:
        """Return 1; in training 0, so that the objective's loss moves nothing beside the regression."""
        return 0.0 if self.training else 1.0

    def _answered(self, predicted: Tensor) -> Tensor:
        if self.answer == "vectors":
            return predicted
        nearest = (predicted @ self.centres.T - self.centres.square().sum(1) / 2.0).argmax(1)
        return F.one_hot(nearest, len(self.centres)).to(predicted.dtype)

    def _cluster(self, log: Log) -> None:
        factors = F.normalize(self.user_factors, dim=1).cpu()
        there = (log.lengths.cpu() > 0).nonzero()[:, 0]
        number = min(len(self.centres), len(there))
        if not number:
            return
        found = kmeans(
            factors[there], number, restarts=1, iterations=ITERATIONS, generator=torch_generator(0, "clusters of users")
        )
        label = torch.zeros(len(factors), dtype=torch.int64)
        label[there] = found.labels
        clusters = self.popular.shape[1]
        at = log.items.cpu() * clusters + label[log.users().cpu()]
        counts = at.bincount(minlength=self.popular.numel()).view_as(self.popular).to(self.popular.dtype)
        counts[:FIRST_KNOWN] = 0.0
        share = counts.sum(1, keepdim=True) / counts.sum().clamp(min=1.0)
        self.popular.copy_((counts + self.smoothing * share) / (counts.sum(0) + self.smoothing))
        self.centres.fill_(1e3)  # a place that no cluster has is far from all vectors of length 1
        self.centres[:number] = found.centres.to(self.centres.device)


def factor_distance(
    predicted: Float[Tensor, "rows dim"], factors: Float[Tensor, "rows dim"], weights: Float[Tensor, " rows"]
) -> Float[Tensor, ""]:
    """Return the weighted mean over rows of |û − u / |u||² / dim; rows of weight 0 do not count.

    Source: Briand et al., KDD 2021, section 3.3: mean squared error to the embedding of the user.
    """
    distance = (predicted - F.normalize(factors, dim=1)).square().mean(1)
    return (distance * weights).sum() / weights.sum().clamp(min=1e-12)
