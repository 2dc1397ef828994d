"""Sequential models: a user is the state of a sequence encoder after the latest item, an item is its embedding."""

from __future__ import annotations

import functools
import inspect
import math
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import PADDING, Batch, Encoded, Items, Users
from twotower.core.schema import Schema
from twotower.models.sequence_model import SequenceModel
from twotower.ops.windows import longest_of
from twotower.scorers.registry import build_scorer
from twotower.towers.sequence.base import LearnsMore, SequenceEncoder, check_settings
from twotower.towers.sequence.causal import CausalTransformer
from twotower.towers.sequence.cloze import ClozeEncoder
from twotower.towers.sequence.probe import check_encoder

TABLE = ("table", "table_buckets", "table_hashes")
SHARED = ("item_features", "time_gaps", "history_length", "score", "temperature", *TABLE, "targets")
"""Settings that every sequential model has."""
GIVEN = ("dim", "length")
"""Keywords of an encoder that the model gives it."""
CPU_GROUP = 16
"""Rows of like length that a CPU encodes together."""


class Sequential(SequenceModel):
    """Score by the dot product or the cosine of an encoder's state with item embeddings.

    Training reads a whole window at once: the state at each position is asked for the item that follows it; of an
    encoder that sees both sides (`ClozeEncoder`), for items that were hidden from it. An empty history gives the zero
    vector, so that every item scores 0. Under the cosine, states and items have length 1; the encoder reads the
    embeddings as they are.

    Args:
        schema: of the data.
        encoder: from `twotower.towers.sequence`; `sequential_model` makes a named model of it.
        dim: width of vectors and of states.
        item_features: whether items are read by their features too, as candidates and in histories.
        time_gaps: whether events are told how long after the one before they came.
        history_length: positions of a window.
        score: "dot" or "cosine", as far as the encoder's states suit it.
        temperature: scores are divided by it in training; 0.05 to 0.2 suits cosines.
        table: how ids become vectors: "dense", "hashed", "quotient_remainder", "sparse", "host", "sharded" or
            "torchrec", as in `TwoTower`.
        table_buckets: rows that ids of a hashed or quotient_remainder table share.
        table_hashes: rows that are summed for an id of a hashed table.
        targets: places of a window that a training step asks for, drawn anew each time; 0: all of them.
        settings: the encoder's own.

    Attributes:
        scores: names of the scores that suit the encoder, its default first.
    """

    scores: ClassVar[tuple[str, ...]] = SequenceEncoder.scores

    def __init__(
        self,
        schema: Schema,
        encoder: type[SequenceEncoder],
        *,
        dim: int = 64,
        item_features: bool = False,
        time_gaps: bool = False,
        history_length: int = 50,
        score: str = "dot",
        temperature: float = 1.0,
        table: str = "dense",
        table_buckets: int = 0,
        table_hashes: int = 2,
        targets: int = 0,
        **settings: Any,
    ) -> None:
        check_settings(dim=dim, history_length=history_length)
        super().__init__(
            schema,
            dim=dim,
            item_features=item_features,
            time_gaps=time_gaps,
            table=table,
            table_buckets=table_buckets,
            table_hashes=table_hashes,
            targets=targets,
        )
        if targets and not encoder.causal:
            raise ValueError(f"targets = {targets} has no effect on {encoder.__name__}, which hides places by a share")
        if score not in encoder.scores:
            raise ValueError(f"score must be {' or '.join(encoder.scores)}, got '{score}'")
        if not 0.0 < temperature < math.inf:
            raise ValueError(f"temperature must be positive and finite, got {temperature}")
        self.scorer = build_scorer(score, dim)
        self.temperature = temperature
        if not encoder.causal and not issubclass(encoder, ClozeEncoder):
            raise ValueError(f"{encoder.__name__} is not causal: trained at all positions it would read the answers")
        if "length" in inspect.signature(encoder).parameters:
            settings["length"] = history_length
        self.history_length = history_length
        try:
            self.tower = encoder(dim=dim, **settings)
        except AttributeError as error:  # such as a forgotten super().__init__()
            raise ValueError(f"encoder {encoder.__name__} cannot be built: {error}") from error
        if not encoder.__module__.startswith("twotower."):  # ours have contract tests
            check_encoder(self.tower, dim, history_length)
        self.draws_rows = not encoder.causal or targets > 0
        self.row_by_row = self.tower.row_by_row and not targets
        self.compiled_parts = ("positions",) if self.row_by_row else ()

    def positions(self, history: Tensor, times: Tensor | None = None) -> Float[Tensor, "rows length wide"]:
        """Return the state after each item of the history; meaningless where it is padded."""
        return self._as_users(self.tower(self.events(history, times), history != PADDING, times))

    def encode_users(self, users: Users) -> Float[Tensor, "rows wide"]:
        """Return the state after the latest item: one vector a user."""
        history, lengths, times = self._asked(users)
        states = self._as_users(self.tower.at_end(self.events(history, times), lengths, times))
        return states * (lengths > 0)[:, None]

    def _asked(self, users: Users) -> tuple[Tensor, Tensor, Tensor | None]:
        """Histories no wider than the longest, their lengths and times."""
        history = users.history[:, : self.history_length]
        lengths = (history != PADDING).sum(dim=1)
        longest = longest_of(lengths, history.shape[1])
        return history[:, :longest], lengths, None if users.history_times is None else users.history_times[:, :longest]

    def _as_users(self, states: Tensor) -> Tensor:
        prepared: Tensor = self.scorer.prepare(self.tower.as_user(states))
        return prepared

    def encode_items(self, items: Items) -> Float[Tensor, "rows wide"]:
        """Return the item's vector, of length 1 under the cosine."""
        prepared: Tensor = self.scorer.prepare(self.tower.as_item(self.item_vectors(items)))
        return prepared

    def logit_scale(self) -> float:
        """Return 1 / temperature."""
        return 1.0 / self.temperature

    def forward(self, batch: Batch) -> Encoded:
        """Encode one row a position that has a next item, in the batch's order: its state, and that item.

        Of an encoder that sees both sides, one row a hidden item: the state that tells it.
        """
        if isinstance(self.tower, ClozeEncoder):
            found = self._filled_in(batch, self.tower)
        elif self.in_one_shape or batch.items.ids.device.type != "cpu" or getattr(self.tower, "whole_batch", False):
            found = self._at_once(batch)
        else:
            found = self._in_groups(batch)
        items = None if batch.items.features is None else self.encode_items(Items(found.item_ids))
        return self.asked_for(Encoded(found.states, items, found.item_ids, found.losses, found.user_rows))

    def _learn(self, users: Users, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """One state a position as training scores it, and own losses, which are means over positions."""
        if not isinstance(self.tower, LearnsMore):
            return self.positions(users.history, users.history_times), {}
        events, following = self.events(users.history, users.history_times), self.embedded(targets)
        states, losses = self.tower.learn(events, following, targets != PADDING, users.history_times)
        return self._as_users(states), losses

    def _in_groups(self, batch: Batch) -> Learnt:
        """Rows of like length together, so that little work goes into padding."""
        real = batch.items.ids != PADDING
        lengths = real.sum(dim=1)
        times = batch.users.history_times
        order, states, losses = [], [], []
        for rows, length in _groups(lengths):
            part = Users(
                batch.users.ids[rows],
                {},
                batch.users.history[rows, :length],
                None if times is None else times[rows, :length],
            )
            found, own = self._learn(part, batch.items.ids[rows, :length])
            order.append(rows)
            states.append(found[real[rows, :length]])
            share = len(states[-1]) / int(lengths.sum())
            losses.append({name: share * loss for name, loss in own.items()})
        # Back to the batch's order, which is that of samplers: their in-batch items are the step's states, row by row.
        place = (real.flatten().cumsum(0) - 1).view(real.shape)[torch.cat(order)][real[torch.cat(order)]]
        user_rows = torch.arange(len(real), device=real.device).repeat_interleave(lengths)
        together = {name: torch.stack([part[name] for part in losses]).sum() for name in losses[0]}
        return Learnt(torch.cat(states).index_select(0, place.argsort()), batch.items.ids[real], user_rows, together)

    def _at_once(self, batch: Batch) -> Learnt:
        """All positions, and then those that count: few launches, and nothing that waits for the device."""
        targets, pairs = batch.items.ids, batch.pairs
        if pairs is None:
            pairs = (targets.flatten() != PADDING).nonzero()[:, 0]
        states, losses = self._learn(batch.users, targets)
        at = states.flatten(0, 1).index_select(0, pairs)
        return Learnt(at, targets.flatten()[pairs], pairs // targets.shape[1], losses)

    def _filled_in(self, batch: Batch, tower: ClozeEncoder) -> Learnt:
        """Hidden items of the whole windows: those of the histories, and the last one that follows."""
        window = torch.cat([batch.users.history[:, :1], batch.items.ids], dim=1)
        real = window != PADDING
        hidden = tower.draw(real)
        everyone = torch.arange(len(window), device=window.device)
        on_cpu = window.device.type == "cpu"
        states, ids, user_rows = [], [], []
        for rows, length in _groups(real.sum(dim=1)) if on_cpu else [(everyone, window.shape[1])]:
            part, away = window[rows, :length], hidden[rows, :length]
            states.append(tower.fill_in(self._windowed(batch, rows, part), away, real[rows, :length]))
            ids.append(part[away])
            user_rows.append(rows[away.nonzero()[:, 0]])
        return Learnt(self._as_users(torch.cat(states)), torch.cat(ids), torch.cat(user_rows), {})

    def _windowed(self, batch: Batch, rows: Tensor, window: Tensor) -> Tensor:
        """Vectors of the events of whole windows; when the last one came is not known, and it is told nothing of it."""
        vectors, times = self.embedded(window), batch.users.history_times
        if self.gaps is None or times is None:
            return vectors
        length = window.shape[1]
        last = torch.arange(length, device=window.device) == (window != PADDING).sum(1, keepdim=True) - 1
        timed = self.timed(vectors, F.pad(times, (0, 1))[rows, :length])
        return torch.where(last[:, :, None], vectors, timed)


class Learnt(NamedTuple):
    """Hold what training scores: states, the items that they are asked for, the batch's rows, and own losses."""

    states: Float[Tensor, "pairs wide"]
    item_ids: Int[Tensor, " pairs"]
    user_rows: Int[Tensor, " pairs"]
    losses: dict[str, Tensor]


def _groups(lengths: Tensor) -> list[tuple[Tensor, int]]:
    """Rows of like length, and the longest of each group."""
    groups = lengths.argsort(stable=True).split(CPU_GROUP)
    return [(rows, int(lengths[rows].max())) for rows in groups]


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
        relative: whether attention has the biases of place and time of HSTU.
        item_features: whether items are read by their features too, as candidates and in histories.
        time_gaps: whether events are told how long after the one before they came.
        history_length: positions of a window.
        score: "dot" or "cosine".
        temperature: scores are divided by it in training; 0.05 to 0.2 suits cosines.
        table: how ids become vectors: "dense", "hashed", "quotient_remainder", "sparse", "host", "sharded" or
            "torchrec", as in `TwoTower`.
        table_buckets: rows that ids of a hashed or quotient_remainder table share.
        table_hashes: rows that are summed for an id of a hashed table.
        targets: places of a window that a training step asks for, drawn anew each time; 0: all of them.
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
        relative: bool = False,
        item_features: bool = False,
        time_gaps: bool = False,
        history_length: int = 50,
        score: str = "dot",
        temperature: float = 1.0,
        table: str = "dense",
        table_buckets: int = 0,
        table_hashes: int = 2,
        targets: int = 0,
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
            item_features=item_features,
            time_gaps=time_gaps,
            history_length=history_length,
            score=score,
            temperature=temperature,
            table=table,
            table_buckets=table_buckets,
            table_hashes=table_hashes,
            targets=targets,
            layers=layers,
            heads=heads,
            dropout=dropout,
            attention_dropout=attention_dropout,
            feed_forward=feed_forward,
            relative=relative,
        )


@functools.cache
def sequential_model(encoder: type[SequenceEncoder]) -> type[Sequential]:
    """Make a model of an encoder: its keywords, beside those of `Sequential`, are the model's settings."""

    def build(self: Sequential, schema: Schema, **settings: Any) -> None:
        Sequential.__init__(self, schema, encoder, **settings)

    shared = inspect.signature(Sequential.__init__).parameters
    own = list(inspect.signature(encoder.__init__).parameters.values())[1:]
    if loose := [part.name for part in own if part.kind is part.POSITIONAL_OR_KEYWORD]:
        how = f"must be keywords alone: def __init__(self, *, {loose[0]}, …)"
        raise InputError(f"encoder {encoder.__name__}: {', '.join(loose)} {how}")
    if bare := [p.name for p in own if p.kind is p.KEYWORD_ONLY and p.default is p.empty and p.name not in GIVEN]:
        raise InputError(f"encoder {encoder.__name__}: {', '.join(bare)} must have a default, as all settings have")
    settings = [part for part in own if part.kind is part.KEYWORD_ONLY and part.name not in GIVEN]
    build.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [shared["self"], shared["schema"], shared["dim"], *settings, *(shared[name] for name in SHARED)]
    )
    names = {
        "__init__": build,
        "scores": encoder.scores,
        "__doc__": encoder.__doc__,
        "__module__": encoder.__module__,
        "no_onnx": encoder.no_onnx,
    }
    return type(encoder.__name__, (Sequential,), names)
