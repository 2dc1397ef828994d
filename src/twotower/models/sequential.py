"""Sequential models: a user is the state of a sequence encoder after the latest item, an item is its embedding."""

from __future__ import annotations

import functools
import inspect
import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from twotower.core.records import PADDING, Batch, Encoded, Items, Users
from twotower.core.schema import Schema
from twotower.models.base import Model
from twotower.ops.windows import longest_of
from twotower.scorers.registry import build_scorer
from twotower.towers.embedding import embedding_table
from twotower.towers.sequence.base import SequenceEncoder, check_settings
from twotower.towers.sequence.causal import CausalTransformer

SHARED = ("history_length", "score", "temperature")
"""Settings that every sequential model has."""
CPU_GROUP = 16
"""Rows of like length that a CPU encodes together."""


class Sequential(Model):
    """Score by the dot product or the cosine of a causal encoder's state with item embeddings.

    Training reads a whole window at once: the state at each position is asked for the item that follows it. An empty
    history gives the zero vector, so that every item scores 0. Under the cosine, states and items have length 1; the
    encoder reads the embeddings as they are.

    Args:
        schema: of the data.
        encoder: from `twotower.towers.sequence`; `sequential_model` makes a named model of it.
        dim: width of vectors and of states.
        history_length: positions of a window.
        score: "dot" or "cosine".
        temperature: scores are divided by it in training; 0.05 to 0.2 suits cosines.
        settings: the encoder's own.
    """

    batches = "sequences"
    row_by_row = True

    def __init__(
        self,
        schema: Schema,
        encoder: type[SequenceEncoder],
        *,
        dim: int = 64,
        history_length: int = 50,
        score: str = "dot",
        temperature: float = 1.0,
        **settings: Any,
    ) -> None:
        super().__init__()
        if score not in ("dot", "cosine"):
            raise ValueError(f"score must be dot or cosine, got '{score}'")
        if not 0.0 < temperature < math.inf:
            raise ValueError(f"temperature must be positive and finite, got {temperature}")
        self.scorer = build_scorer(score, dim)
        self.temperature = temperature
        if not encoder.causal:
            raise ValueError(f"{encoder.__name__} is not causal: trained at all positions it would read the answers")
        check_settings(dim=dim, history_length=history_length)
        if "length" in inspect.signature(encoder).parameters:
            settings["length"] = history_length
        self.schema = schema
        self.history_length = history_length
        self.item_table = embedding_table(schema.num_items, dim, std=0.02)
        self.tower = encoder(dim=dim, **settings)

    def positions(self, history: Tensor, times: Tensor | None = None) -> Float[Tensor, "rows length dim"]:
        """Return the state after each item of the history; meaningless where it is padded."""
        return self.scorer.prepare(self.tower(self._embedded(history), history != PADDING, times))

    def encode_users(self, users: Users) -> Float[Tensor, "rows dim"]:
        """Return the state after the latest item: one vector a user."""
        history = users.history[:, : self.history_length]
        lengths = (history != PADDING).sum(dim=1)
        longest = longest_of(lengths, history.shape[1])
        times = None if users.history_times is None else users.history_times[:, :longest]
        states = self.scorer.prepare(self.tower.at_end(self._embedded(history[:, :longest]), lengths, times))
        return states * (lengths > 0)[:, None]

    def _embedded(self, history: Tensor) -> Tensor:
        return F.embedding(history, self.item_table.weight) * self.item_table.embedding_dim**0.5

    def encode_items(self, items: Items) -> Float[Tensor, "rows dim"]:
        """Return the item's embedding, of length 1 under the cosine."""
        return self.scorer.prepare(self.item_table(items.ids))

    def logit_scale(self) -> float:
        """Return 1 / temperature."""
        return 1.0 / self.temperature

    def forward(self, batch: Batch) -> Encoded:
        """Encode one row a position that has a next item, in the batch's order: its state, and that item."""
        on_cpu = batch.items.ids.device.type == "cpu"
        states, item_ids, user_rows = self._in_groups(batch) if on_cpu else self._at_once(batch)
        items = None if batch.items.features is None else self.scorer.prepare(self.item_table(item_ids))
        return Encoded(states, items, item_ids, {}, user_rows)

    def _in_groups(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of like length together, so that little work goes into padding."""
        real = batch.items.ids != PADDING
        lengths = real.sum(dim=1)
        groups = lengths.argsort(stable=True).split(CPU_GROUP)
        longest = [int(lengths[rows].max()) for rows in groups]
        times = batch.users.history_times
        states = torch.cat(
            [
                self.positions(batch.users.history[rows, :length], None if times is None else times[rows, :length])[
                    real[rows, :length]
                ]
                for rows, length in zip(groups, longest, strict=True)
            ]
        )
        # Back to the batch's order, which is that of samplers: their in-batch items are the step's states, row by row.
        order = torch.cat(groups)
        place = (real.flatten().cumsum(0) - 1).view(real.shape)[order][real[order]]
        rows = torch.arange(len(real), device=real.device).repeat_interleave(lengths)
        return states.index_select(0, place.argsort()), batch.items.ids[real], rows

    def _at_once(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """All positions, and then those that count: few launches, and nothing that waits for the device."""
        targets, pairs = batch.items.ids, batch.pairs
        if pairs is None:
            pairs = (targets.flatten() != PADDING).nonzero()[:, 0]
        states = self.positions(batch.users.history, batch.users.history_times).flatten(0, 1).index_select(0, pairs)
        return states, targets.flatten()[pairs], pairs // targets.shape[1]


class SASRec(Sequential):
    """Encode a history by causal self-attention over item embeddings.

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
        score: "dot" or "cosine".
        temperature: scores are divided by it in training; 0.05 to 0.2 suits cosines.
    """

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
        score: str = "dot",
        temperature: float = 1.0,
    ) -> None:
        if min(dim, layers, heads, feed_forward, history_length) < 1:
            raise ValueError(
                "dim, layers, heads, feed_forward and history_length must be at least 1, "
                f"got {dim}, {layers}, {heads}, {feed_forward} and {history_length}"
            )
        if not (0.0 <= dropout < 1.0 and 0.0 <= attention_dropout < 1.0):
            raise ValueError(f"dropouts must be in [0, 1), got {dropout} and {attention_dropout}")
        super().__init__(
            schema,
            CausalTransformer,
            dim=dim,
            history_length=history_length,
            score=score,
            temperature=temperature,
            layers=layers,
            heads=heads,
            dropout=dropout,
            attention_dropout=attention_dropout,
            feed_forward=feed_forward,
        )


@functools.cache
def sequential_model(encoder: type[SequenceEncoder]) -> type[Sequential]:
    """Make a model of an encoder: its keywords, beside those of `Sequential`, are the model's settings."""

    def build(self: Sequential, schema: Schema, **settings: Any) -> None:
        Sequential.__init__(self, schema, encoder, **settings)

    shared = inspect.signature(Sequential.__init__).parameters
    own = inspect.signature(encoder.__init__).parameters.values()
    settings = [part for part in own if part.kind is part.KEYWORD_ONLY and part.name not in ("dim", "length")]
    build.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [shared["self"], shared["schema"], shared["dim"], *settings, *(shared[name] for name in SHARED)]
    )
    names = {
        "__init__": build,
        "__doc__": encoder.__doc__,
        "__module__": encoder.__module__,
        "no_onnx": encoder.no_onnx,
    }
    return type(encoder.__name__, (Sequential,), names)
