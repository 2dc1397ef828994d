"""All-to-all self-attention: history and item go through one transformer together, for every pair."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from twotower.core.records import PADDING, Items, Users
from twotower.core.schema import Schema
from twotower.models.base import Model
from twotower.ops.dropout import dropout as dropped
from twotower.scorers.tiles import in_tiles, rows_in_tiles
from twotower.towers.codes.fields_first import FieldsFirst
from twotower.towers.codes.item_vectors import check_item_id, item_vectors
from twotower.towers.embedding import FeatureEmbedding
from twotower.towers.heads import Heads
from twotower.towers.interaction.all_to_all import AllToAllEncoder
from twotower.towers.node_scorer import ReadHistory, latest_first
from twotower.towers.sequence.base import check_settings
from twotower.towers.table import DenseTable

NUMBERS = 1 << 22
"""Numbers that pairs hold at a time outside training: 16 MiB in float32."""


class AllToAll(Model):
    """Score an item by a transformer that reads its tokens and the user's history at once, every token seeing all.

    It is what SparCode may lose by its codes: the score of a pair is any function of both sides, so nothing but the
    item's first vector is known before the request, and every item that is scored costs a pass of the network. Train it
    against few shared items; answer by scoring everything, or by lists of the index `nominate`.

    Events have positions counted from the latest, and each token of an item has a vector of its own place, which says
    that it is the item's. The score is a linear map of the mean of the item's last states. An empty history leaves the
    item's tokens to themselves.

    Source: "All-to-All SA" of Su et al., SIGIR 2023, section 4.1.2: features, histories and items "fed into a
    multi-layer SA-based model simultaneously", of which no more is printed. Blocks, item vectors and user features are
    those of `SparCode` and its twin; that the score is read at the item's tokens is ours.

    Args:
        dim: width of tokens.
        item_id: whether an item that is scored has a vector of its own; without, it is its features alone.
        item_tokens: K_c, tokens of an item.
        layers: of the transformer; the paper's is 3.
        heads: of the attention; must divide ``dim``.
        dropout: share of numbers set to 0 in training.
        history_length: latest items of the history that are read.
        user_features: whether the user's features are read, as events beside those of the history.
        feature_dropout: share of these features, each by itself, that are missing in training.
    """

    has_vectors = False
    inner_product = False
    user_kind = ReadHistory
    no_onnx = "its network reads a history and an item at once: there is no tower to encode with"

    def __init__(
        self,
        schema: Schema,
        *,
        dim: int = 64,
        item_id: bool = True,
        item_tokens: int = 1,
        layers: int = 2,
        heads: int = 2,
        dropout: float = 0.1,
        history_length: int = 20,
        user_features: bool = False,
        feature_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_settings(
            share=dropout, dim=dim, item_tokens=item_tokens, layers=layers, heads=heads, history_length=history_length
        )
        self.schema, self.history_length, self.dropout = schema, history_length, dropout
        self.item_id = check_item_id(schema, item_id)
        self.item_table = DenseTable(schema.num_items, dim)
        self.item_fields = FeatureEmbedding(schema.item_features, dim=dim)
        self.first = FieldsFirst(schema.user_features if user_features else (), dim=dim, dropout=feature_dropout)
        self.item_heads = Heads(dim, heads=item_tokens, dim=dim) if item_tokens > 1 else None
        self.user_places = nn.Parameter(torch.randn(self.first.count + history_length, dim) * dim**-0.5)
        self.item_places = nn.Parameter(torch.randn(item_tokens, dim) * dim**-0.5)
        self.encoder = AllToAllEncoder(dim=dim, layers=layers, heads=heads, dropout=dropout)
        self.pairs = max(1, NUMBERS // self.encoder.numbers(len(self.user_places) + item_tokens))

    def encode_users(self, users: Users) -> ReadHistory:
        """Return the user's features and the latest items of each history, the last one first, at their places."""
        history = latest_first(users.history, len(self.user_places) - self.first.count)
        events, _ = self.first(users.features, self.item_table(history), (history != PADDING).sum(1))
        there = history != PADDING
        present = torch.cat([there.new_ones(len(there), self.first.count), there], dim=1)
        return ReadHistory(dropped(events + self.user_places, self.dropout, self.training), present)

    def encode_items(self, items: Items) -> Float[Tensor, "rows item_tokens dim"]:
        """Return the tokens of each item at their places: its id's vector and the mean of its features'."""
        vectors = item_vectors(items, self.item_table, self.item_fields, item_id=self.item_id)
        tokens = vectors[:, None] if self.item_heads is None else self.item_heads(vectors)
        return dropped(tokens + self.item_places, self.dropout, self.training)

    def score(self, users: ReadHistory, items: Float[Tensor, "items item_tokens dim"]) -> Float[Tensor, "users items"]:
        """Score every user with every item."""
        if self.training:
            return self._together(users, items[None])
        return in_tiles(lambda some, others: self._together(some, others[None]), users, items, pairs=self.pairs)

    def score_rows(
        self, users: ReadHistory, items: Float[Tensor, "rows *n item_tokens dim"]
    ) -> Float[Tensor, "rows *n"]:
        """Score row i with row i, or with each of its n items."""
        if items.ndim == 3:
            return self.score_rows(users, items[:, None])[:, 0]
        if self.training:
            return self._together(users, items)
        return rows_in_tiles(self._together, users, items, pairs=self.pairs)

    def _together(self, users: ReadHistory, items: Tensor) -> Tensor:
        scores: Tensor = self.encoder(users.vectors, users.present, items)
        return scores
