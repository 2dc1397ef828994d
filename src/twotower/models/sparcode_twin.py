"""SparCode's two-tower twin: the same history encoder and items, one vector a side, an inner product."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from twotower.core.records import PADDING, Items, Users
from twotower.core.schema import Schema
from twotower.models.base import Model
from twotower.scorers.registry import build_scorer
from twotower.towers.codes.fields_first import FieldsFirst
from twotower.towers.codes.item_vectors import check_item_id, item_vectors
from twotower.towers.codes.tokenizers import Tokenizer
from twotower.towers.embedding import FeatureEmbedding
from twotower.towers.table import DenseTable


class SparCodeTwin(Model):
    """Score by the cosine or dot product of one token of the history with the item: `SparCode` without its codes.

    It is what SparCode has to be compared with: encoder, item vectors and training rows are SparCode's, and the score
    is an inner product, so that the full softmax trains it and a vector index serves it.

    Source: the two-tower models (TTM) of Su et al., SIGIR 2023, tables 1 and 2: DSSM ("dnn"), GRU4Rec ("gru"), SASRec
    and SA ("self_attention"). Difference: the cosine over a temperature, which they do not mention.

    Args:
        dim: width of vectors.
        item_id: whether an item that is scored has a vector of its own; without, it is its features alone.
        tokenizer: "dnn", "gru", "self_attention" or "capsule".
        heads: "linear" or "senet".
        score: "cosine" or "dot".
        temperature: scores are divided by it in training.
        layers: of the encoder.
        dropout: share of numbers set to 0 in training.
        history_length: latest items of the history that are read.
        user_features: whether the encoder reads the user's features, as events before those of the history.
        feature_dropout: share of these features, each by itself, that are missing in training.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        dim: int = 64,
        item_id: bool = True,
        tokenizer: str = "self_attention",
        heads: str = "linear",
        score: str = "cosine",
        temperature: float = 0.1,
        layers: int = 2,
        dropout: float = 0.1,
        history_length: int = 20,
        user_features: bool = False,
        feature_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if min(dim, history_length) < 1 or not 0.0 < temperature < math.inf:
            raise ValueError("dim and history_length must be at least 1, and temperature positive and finite")
        if score not in ("cosine", "dot"):
            raise ValueError(f"score must be cosine or dot, got '{score}'")
        self.schema, self.history_length, self.temperature = schema, history_length, temperature
        self.scorer = build_scorer(score, dim)
        self.item_id = check_item_id(schema, item_id)
        self.item_table = DenseTable(schema.num_items, dim)
        self.item_fields = FeatureEmbedding(schema.item_features, dim=dim)
        self.first = FieldsFirst(schema.user_features if user_features else (), dim=dim, dropout=feature_dropout)
        length = history_length + self.first.count
        self.tokenizer = Tokenizer(
            tokenizer, dim=dim, tokens=1, length=length, heads=heads, layers=layers, dropout=dropout
        )

    def encode_users(self, users: Users) -> Float[Tensor, "rows dim"]:
        """Return one vector a user; zero where the history is empty and no features are read."""
        history = users.history[:, : self.history_length]
        events, lengths = self.first(users.features, self.item_table(history), (history != PADDING).sum(1))
        return self.scorer.prepare(self.tokenizer(events, lengths)[:, 0])

    def encode_items(self, items: Items) -> Float[Tensor, "rows dim"]:
        """Return one vector an item: its id's vector and the mean of its features'."""
        vectors = item_vectors(items, self.item_table, self.item_fields, item_id=self.item_id)
        return self.scorer.prepare(vectors)

    def logit_scale(self) -> Tensor | float:
        """Return 1 / temperature."""
        return 1.0 / self.temperature
