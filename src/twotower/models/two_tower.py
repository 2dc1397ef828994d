"""Two-tower model (deep structured semantic model, DSSM): a network a side, joined by a cosine, dot product or MLP."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from twotower.core.errors import InputError, unknown_name
from twotower.core.records import Items, Users
from twotower.core.schema import Schema
from twotower.data.log import Log
from twotower.models.base import Model
from twotower.models.first_items import cooccurrence_vectors
from twotower.scorers.registry import build_scorer
from twotower.scorers.temperature import Temperature
from twotower.towers.embedding import FeatureEmbedding, dropped_fields, settle_new, settle_unknown
from twotower.towers.pooling import HistoryPooling
from twotower.towers.registry import build_tower
from twotower.towers.table import DenseTable, Table
from twotower.towers.tables import SHARING, build_table

INITS = ("drawn", "cooccurrence", "auto")
MOST_ITEMS = 200_000
"""Rows up to which "auto" takes first embeddings from the log: about ten seconds on a core."""

log_of_model = logging.getLogger(__name__)


class TwoTower(Model):
    """Encode features and ids by one MLP a side; a user also by the mean of its history's item embeddings.

    The history shares the item tower's id table, so that an item is learnt once. An unknown item falls back on row 1
    and its features: train with ``id_dropout`` so that those two mean something.

    Source: Huang et al., CIKM 2013 (DSSM), with the user side of Covington et al., RecSys 2016. Differences: cosine
    with a temperature that may be learnt, and no letter trigrams (text is a bag of words).

    Args:
        dim: width of user and item vectors.
        field_dim: width of one field's embedding.
        hidden: widths of the hidden layers of each tower; empty for one linear map.
        score: "cosine", "dot", "mlp" (a network over both vectors, which no vector index can search), or the name of
            a registered scorer: see `twotower.SCORERS`.
        tower: "mlp", "relu_mlp" (a ReLU after the last layer too), or the name of a registered network from a side's
            fields to its vector: see `twotower.TOWERS`.
        temperature: scores are divided by it; see `Temperature`.
        learn_temperature: whether training moves it.
        user_id: whether the user tower has an embedding of the user's id. Off by default: the history says the same,
            and serves users who came after training.
        item_id: whether the item tower has an embedding of the item's id.
        history_length: latest items of the history that are read; 0: none, and the user is its id and features.
        pooling: how they become one vector: "mean", "recency" (a learnt decay) or "both"; see `HistoryPooling`.
        history_dropout: share of a history's items that are left out in training, each by itself.
        history_table: whether items of a history have embeddings of their own, apart from those of candidates.
        batch_norm: whether each layer is normalised over the batch, as in the pre-rankers.
        dropout: share of hidden numbers set to 0 in training.
        feature_dropout: share of fields, each by itself, set to missing in training, so that no feature becomes one
            that the model cannot do without.
        id_dropout: share of item ids replaced by "unknown" in training.
        init: first item embeddings: "drawn", or "cooccurrence": the leading eigenvectors of how items occur together in
            the training log, with towers that begin as the identity on them, so that scores before the first step are
            about those of item-to-item cosines. It wants linear towers (``hidden`` empty) as wide as the fields, item
            ids and a history. "auto": so where towers and memory allow it and items are at most `MOST_ITEMS`, else
            drawn, which is logged.
        table: how ids become vectors: "dense" (a row an id, a weight of the model), "hashed" or "quotient_remainder"
            (ids share ``table_buckets`` rows), "sparse" (a row an id; a step reads and moves those of its batch alone,
            by row-wise Adagrad), "host" (the same, and rows stay in the host's memory), "sharded" (as "sparse", and
            rows are shared out over the processes of a training) or "torchrec" (the same, by TorchRec).
        table_buckets: rows that ids share; a table of users with no more ids than this stays dense.
        table_hashes: rows that are summed for an id of a hashed table.
    """

    same_steps = True
    reads_times = False

    def __init__(
        self,
        schema: Schema,
        *,
        dim: int = 64,
        field_dim: int = 64,
        hidden: Sequence[int] = (128,),
        score: str = "cosine",
        tower: str = "mlp",
        temperature: float = 0.1,
        learn_temperature: bool = True,
        user_id: bool = False,
        item_id: bool = True,
        history_length: int = 50,
        pooling: str = "mean",
        history_dropout: float = 0.0,
        history_table: bool = False,
        batch_norm: bool = False,
        dropout: float = 0.0,
        feature_dropout: float = 0.0,
        id_dropout: float = 0.0,
        init: str = "drawn",
        table: str = "dense",
        table_buckets: int = 0,
        table_hashes: int = 2,
    ) -> None:
        super().__init__()
        if not (0.0 <= feature_dropout < 1.0 and 0.0 <= id_dropout < 1.0):
            raise ValueError(f"dropouts must be in [0, 1), got feature {feature_dropout}, id {id_dropout}")
        if not item_id and not schema.item_features:
            raise ValueError("items have no features, so the item tower needs item_id = true")
        if not history_length and not user_id and not schema.user_features:
            raise ValueError("users have no features, so without a history the user tower needs user_id = true")
        if init not in INITS:
            raise unknown_name("init", init, INITS)
        plain = tower == "mlp" and not hidden and not batch_norm and dim == field_dim
        if init == "cooccurrence" and not (plain and item_id and history_length):
            raise ValueError(
                "init = 'cooccurrence' wants linear towers (hidden = [], tower = 'mlp', batch_norm = false) with "
                "dim = field_dim, item_id = true and a history"
            )
        if init == "cooccurrence" and table in SHARING:
            raise ValueError(f"init = 'cooccurrence' wants a row an item, and the ids of a {table} table share rows")
        settable = plain and item_id and history_length > 0 and table not in SHARING
        self.schema = schema
        self.init = "drawn" if init == "auto" and not settable else init
        self.history_length = history_length
        self.feature_dropout = feature_dropout
        self.id_dropout = id_dropout
        self.scorer = build_scorer(score, dim)
        self.inner_product = self.scorer.inner_product
        self.temperature = Temperature(temperature, learnable=learn_temperature)

        def table_of(rows: int) -> Table:
            return build_table(table, rows, field_dim, buckets=table_buckets, hashes=table_hashes)

        self.item_table = table_of(schema.num_items)
        self.history_table = table_of(schema.num_items) if history_table and history_length else None
        self.pool = HistoryPooling(pooling=pooling, dropout=history_dropout)
        self.user_table: Table | None = None
        if user_id:
            few = 0 < schema.num_users <= table_buckets
            self.user_table = DenseTable(schema.num_users, field_dim) if few else table_of(schema.num_users)
        self.item_id = item_id
        self.user_fields = FeatureEmbedding(schema.user_features, dim=field_dim)
        self.item_fields = FeatureEmbedding(schema.item_features, dim=field_dim)
        read = self.pool.parts if history_length else 0
        user_width = field_dim * (read + user_id) + self.user_fields.width
        item_width = field_dim * item_id + self.item_fields.width

        def network(width: int) -> nn.Module:
            return build_tower(tower, width, dim, hidden=hidden, dropout=dropout, batch_norm=batch_norm)

        self.user_mlp = network(user_width)
        self.item_mlp = network(item_width)

    def encode_users(self, users: Users) -> Float[Tensor, "rows dim"]:
        """Return one vector a user, of length 1 under the cosine."""
        fields = []
        if self.history_length:
            fields.append(self.pool(self.history_table or self.item_table, users.history))
        if self.user_table is not None:
            fields.append(self.user_table(users.ids))
        fields += self._features(self.user_fields, users.features)
        return self.scorer.prepare(self.user_mlp(_joined(fields)))

    def encode_items(self, items: Items) -> Float[Tensor, "rows dim"]:
        """Return one vector an item, of length 1 under the cosine."""
        fields = self._features(self.item_fields, items.features or {})
        if self.item_id:
            ids = items.ids
            if self.training and self.id_dropout:
                ids = torch.where(torch.rand(ids.shape, device=ids.device) < self.id_dropout, 1, ids)
            fields.append(self.item_table(ids))
        return self.scorer.prepare(self.item_mlp(_joined(fields)))

    def score(
        self, users: Float[Tensor, "users dim"], items: Float[Tensor, "items dim"]
    ) -> Float[Tensor, "users items"]:
        """Score every user with every item."""
        return super().score(users, items) if self.inner_product else self.scorer(users, items)

    def score_rows(
        self, users: Float[Tensor, "rows dim"], items: Float[Tensor, "rows *n dim"]
    ) -> Float[Tensor, "rows *n"]:
        """Score row i with row i, or with each of its n items."""
        return super().score_rows(users, items) if self.inner_product else self.scorer.pairs(users, items)

    @torch.no_grad()
    def start_from(self, log: Log) -> None:
        """Take the first item embeddings from the training log, where ``init`` says so."""
        rows, dim = self.item_table.num_rows, self.item_table.dim
        if self.init == "drawn" or (self.init == "auto" and rows > MOST_ITEMS):
            return
        item, user = _only_layer(self.item_mlp), _only_layer(self.user_mlp)
        try:
            vectors = cooccurrence_vectors(log, rows, dim).to(item.weight)
        except InputError as error:
            if self.init != "auto":
                raise
            log_of_model.info("first item embeddings are drawn: %s", error)
            return
        known = vectors.abs().sum(1) > 0
        if not known.any():
            return
        vectors *= dim**-0.5 / vectors[known].square().mean().sqrt()  # as long as those that are drawn
        for table in (self.item_table, self.history_table):
            if table is not None:
                table.put(known.nonzero()[:, 0], vectors[known])
        same = torch.eye(dim).to(item.weight)
        item.weight[:, -dim:] = same  # the id is the last field of an item, the history the first ones of a user
        user.weight[:, : dim * self.pool.parts] = same.repeat(1, self.pool.parts) / self.pool.parts
        item.bias.zero_()
        user.bias.zero_()

    @property
    def serves_new_items(self) -> bool:
        """Return whether items have features beside their ids, and a row each that can be set by them."""
        return bool(self.schema.item_features) and self.item_table.row_an_id

    @torch.no_grad()
    def settle_items(self, new: Tensor, events: Tensor, items: Items) -> None:
        """Set the id embeddings of new items to those of trained items with similar features: see `settle_new`."""
        fields = self.item_fields(items.features or {}).flatten(1) if new.any() else None
        for table, unknown_learns in (
            (self.item_table, self.item_id and self.id_dropout > 0),
            (self.history_table, False),
        ):
            if table is not None:
                if not unknown_learns:
                    settle_unknown(table, events)
                if fields is not None:
                    settle_new(table, new, events, fields)

    def logit_scale(self) -> Tensor:
        """Return 1 / temperature."""
        return self.temperature.scale()

    def _features(self, embed: FeatureEmbedding, values: dict[str, Tensor]) -> list[Tensor]:
        if not embed.features:
            return []
        return [dropped_fields(embed(values), self.feature_dropout if self.training else 0.0).flatten(1)]


def _joined(fields: list[Tensor]) -> Tensor:
    return torch.cat(fields, dim=1) if len(fields) > 1 else fields[0]


def _only_layer(network: nn.Module) -> nn.Linear:
    (layer,) = (part for part in network.modules() if isinstance(part, nn.Linear))
    return layer
