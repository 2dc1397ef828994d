"""SASRec: the user vector is read from a causal transformer over the history; the item vector is its embedding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from twotower.core.records import PADDING, Batch, Encoded, Items, Users
from twotower.core.schema import Schema
from twotower.models.base import Model
from twotower.towers.attention import CausalTransformer
from twotower.towers.embedding import embedding_table

CPU_GROUP = 16
"""Rows of like length that a CPU encodes together."""


class SASRec(Model):
    """Causal self-attention over item embeddings, scored by the dot product with the same embeddings.

    Training reads a whole window at once: the state at each position is asked for the item that follows it. An empty
    history gives the zero vector, so that every item scores 0.

    Source: Kang and McAuley, ICDM 2018. Differences: pre-norm blocks, and the loss is chosen by the run (the paper's is
    BCE with one negative; full softmax is better, see Petrov and Macdonald, RecSys 2023, and our docs).

    Args:
        dim: width of vectors and of all layers.
        layers: attention blocks.
        heads: attention heads; must divide ``dim``.
        dropout: share of numbers set to 0 in training, of embeddings and of each layer's output.
        attention_dropout: share of attention weights set to 0 in training.
        feed_forward: width of the hidden feed-forward layer, in multiples of ``dim``.
        history_length: positions of a window.
    """

    batches = "sequences"

    def __init__(
        self,
        schema: Schema,
        *,
        dim: int = 64,
        layers: int = 2,
        heads: int = 2,
        dropout: float = 0.2,
        attention_dropout: float = 0.0,
        feed_forward: int = 1,
        history_length: int = 50,
    ) -> None:
        super().__init__()
        if min(dim, layers, heads, feed_forward, history_length) < 1:
            raise ValueError(
                "dim, layers, heads, feed_forward and history_length must be at least 1, "
                f"got {dim}, {layers}, {heads}, {feed_forward} and {history_length}"
            )
        if not (0.0 <= dropout < 1.0 and 0.0 <= attention_dropout < 1.0):
            raise ValueError(f"dropouts must be in [0, 1), got {dropout} and {attention_dropout}")
        self.schema = schema
        self.history_length = history_length
        self.item_table = embedding_table(schema.num_items, dim, std=0.02)
        self.tower = CausalTransformer(
            dim=dim,
            layers=layers,
            heads=heads,
            length=history_length,
            dropout=dropout,
            attention_dropout=attention_dropout,
            feed_forward=feed_forward,
        )

    def positions(self, history: Tensor) -> Float[Tensor, "rows length dim"]:
        """The state after each item of the history; meaningless where it is padded."""
        return self.tower(self._embedded(history))

    def encode_users(self, users: Users) -> Float[Tensor, "rows dim"]:
        """The state after the latest item: one vector a user."""
        history = users.history[:, : self.history_length]
        lengths = (history != PADDING).sum(dim=1)
        longest = max(1, int(lengths.max())) if len(lengths) else 1
        return self.tower.at_end(self._embedded(history[:, :longest]), lengths) * (lengths > 0)[:, None]

    def _embedded(self, history: Tensor) -> Tensor:
        return F.embedding(history, self.item_table.weight) * self.item_table.embedding_dim**0.5

    def encode_items(self, items: Items) -> Float[Tensor, "rows dim"]:
        """The item's embedding."""
        return self.item_table(items.ids)

    def forward(self, batch: Batch) -> Encoded:
        """One row a position that has a next item: its state, and that item; positions of a user stand together."""
        targets = batch.items.ids
        groups = self._like_lengths(targets)
        states = torch.cat([self._real_positions(batch.users.history, targets, rows) for rows in groups])
        rows = torch.cat(groups)
        real = targets[rows] != PADDING
        item_ids = targets[rows][real]
        items = None if batch.items.features is None else self.item_table(item_ids)
        return Encoded(states, items, item_ids, {}, rows.repeat_interleave(real.sum(dim=1)))

    def _real_positions(self, history: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
        real = targets[rows] != PADDING
        longest = int(real.sum(dim=1).max()) if history.device.type == "cpu" else history.shape[1]
        return self.positions(history[rows, :longest])[real[:, :longest]]

    @staticmethod
    def _like_lengths(targets: Tensor) -> tuple[Tensor, ...]:
        """The rows of a batch in groups; on a CPU of like length, so that little work goes into padding."""
        if targets.device.type != "cpu":
            return (torch.arange(len(targets), device=targets.device),)
        return (targets != PADDING).sum(dim=1).argsort(stable=True).split(CPU_GROUP)
