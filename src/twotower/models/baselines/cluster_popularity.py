"""Popularity by cluster: users are clustered by their features, and each gets what is popular in its cluster."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from twotower.core.records import FIRST_KNOWN, PADDING, Features, Items, Users
from twotower.core.schema import Feature, Schema
from twotower.core.seeds import torch_generator
from twotower.data.log import Log
from twotower.models.base import ClosedForm
from twotower.ops.kmeans import kmeans
from twotower.towers.table import mean_of_rows

WIDTH = 64
"""Numbers that a user's features are projected to."""
DECIMALS = 4
"""Decimals of these numbers by which users are told apart."""


class ClusterPopularity(ClosedForm):
    """Score an item by its share of the training events of the user's cluster, mixed with its share of all events.

        score(u, i) = (n_ci + s · p_i) / (n_c + s)

    n_ci counts the events of cluster c with item i, p_i is the item's share of all events. Clusters are k-means centres
    of the features of users with events: each value of a feature is a fixed random vector (a projection of one-hot
    codes), a number its standardised value times one, a user the sum. So a new user is served by its features alone;
    one of whom no feature is known gets the mean over all clusters. Without user features there is one cluster, and
    this is popularity.

    Source: the yardstick of Briand et al., KDD 2021, section 4.2 (popularity), by cluster; the projection is ours.

    Args:
        clusters: of users; fewer where they have fewer different features.
        smoothing: s, in events.
    """

    history_length = 1
    centres: Tensor
    popular: Tensor

    def __init__(self, schema: Schema, *, clusters: int = 20, smoothing: float = 1000.0) -> None:
        super().__init__()
        if clusters < 1 or not 0.0 < smoothing < math.inf:
            raise ValueError(f"clusters must be at least 1 and smoothing positive, got {clusters} and {smoothing!r}")
        self.schema, self.smoothing = schema, smoothing
        self.register_buffer("centres", torch.full((clusters, WIDTH), 1e3))
        self.register_buffer("popular", torch.zeros(schema.num_items, clusters))
        for place, feature in enumerate(schema.user_features):
            self.register_buffer(f"values_{place}", fixed_vectors(feature), persistent=False)
        self._users: Tensor | None = None

    def attach_users(self, features: Features) -> None:
        """Keep the projected features of all users (row number = id) for the clusters of the next fit."""
        if self.schema.user_features:
            self._users = self._projected(features)

    def fit_log(self, log: Log) -> None:
        """Fit clusters of users and count each item's positive events by cluster."""
        log = log.positives()
        there = (log.lengths > 0).nonzero()[:, 0]
        clusters = len(self.centres)
        label = torch.zeros(len(log.lengths), dtype=torch.int64, device=log.items.device)
        self.centres.fill_(1e3)  # a place that no cluster has is far from every user
        if self._users is None or not len(there):
            self.centres[0] = 0.0
        else:
            rows = self._users[there].cpu()
            number = min(clusters, len(rows.round(decimals=DECIMALS).unique(dim=0)))  # no centre twice: no ties
            found = kmeans(rows, number, restarts=3, generator=torch_generator(0, "clusters of features"))
            self.centres[:number] = found.centres.to(self.centres.device)
            label[there] = self._nearest(self._users[there])
        at = log.items * clusters + label[log.users()]
        counts = at.bincount(minlength=self.popular.numel()).view_as(self.popular).to(self.popular.dtype)
        counts[:FIRST_KNOWN] = 0.0
        share = counts.sum(1, keepdim=True) / counts.sum().clamp(min=1.0)
        self.popular.copy_((counts + self.smoothing * share) / (counts.sum(0) + self.smoothing))

    def encode_users(self, users: Users) -> Float[Tensor, "rows clusters"]:
        """Return 1 at the place of the user's cluster; the same share at each where no feature is known."""
        clusters = len(self.centres)
        if not self.schema.user_features:
            return F.one_hot(users.ids.new_zeros(users.ids.shape[0]), clusters).to(self.centres.dtype)
        rows = self._projected(users.features)
        own = F.one_hot(self._nearest(rows), clusters).to(self.centres.dtype)
        return torch.where((rows != 0.0).any(1, keepdim=True), own, torch.full_like(own, 1.0 / clusters))

    def encode_items(self, items: Items) -> Float[Tensor, "rows clusters"]:
        """Return the item's share of each cluster's events."""
        return self.popular[items.ids]

    def _projected(self, features: Features) -> Tensor:
        tables = [self.get_buffer(f"values_{place}") for place in range(len(self.schema.user_features))]
        return projected(self.schema.user_features, tables, features)

    def _nearest(self, rows: Tensor) -> Tensor:
        return (rows @ self.centres.T - self.centres.square().sum(1) / 2.0).argmax(1)


def fixed_vectors(feature: Feature) -> Float[Tensor, "size width"]:
    """Return a random vector for each value of a feature, the same in every run; zero for a missing one."""
    table = torch.randn(feature.size, WIDTH, generator=torch_generator(0, "feature", feature.name)) / math.sqrt(WIDTH)
    if feature.is_discrete:
        table[PADDING] = 0.0
    return table


def projected(features: tuple[Feature, ...], tables: Sequence[Tensor], values: Features) -> Float[Tensor, "rows width"]:
    """Return each row's features as one vector: the sum of the fixed vectors of its values.

    Examples:
        >>> city = Feature("city", "categorical", 4)
        >>> rows = projected((city,), [fixed_vectors(city)], {"city": torch.tensor([2, 3, 2])})
        >>> bool(rows[0].equal(rows[2])), bool(rows[0].equal(rows[1]))
        (True, False)
    """
    parts = []
    for feature, table in zip(features, tables, strict=True):
        value = values[feature.name]
        if feature.is_discrete:
            parts.append(table[value] if value.ndim == 1 else mean_of_rows(table, value))
            continue
        if feature.kind == "numeric":
            value = ((value - feature.mean) / feature.std)[:, None]
        parts.append(value.nan_to_num(0.0, 0.0, 0.0) @ table)
    return torch.stack(parts).sum(0)
