"""Sequence encoder protocols: events of a history become states, one a place.

A new encoder is one file and one line. The file, in this folder, holds a subclass of `SequenceEncoder`:

    class Mean(SequenceEncoder):
        # The mean of the events so far, through a linear map.

        def __init__(self, *, dim: int, dropout: float = 0.0) -> None:
            super().__init__()
            self.project = nn.Linear(dim, dim)

        def forward(self, events: Tensor, mask: Tensor, times: Tensor | None = None) -> Tensor:
            count = torch.arange(1, events.shape[1] + 1, device=events.device)
            return self.project(events.cumsum(1) / count[:, None])

The line, in ``KNOWN`` of `twotower.models.names`, gives it a model's name:

    "mean": "twotower.towers.sequence.mean:Mean",

It is then a model like all others: `twotower.models.sequential.Sequential` owns the item table, cuts the batch into
windows, trains at every place and serves the last one; the encoder's keywords are settings of a run
(``--set model.dropout=0.1``). The contract tests in ``tests/contracts/test_sequence_encoders.py`` take it up from the
registry by themselves.
"""

from __future__ import annotations

import math
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from twotower.core.records import State


class SequenceEncoder(nn.Module):
    """Encode the events of each user, oldest first and padded at the end, as one state a place.

    It is built with keywords alone. ``dim`` is the width of events and of states; one that must know how many places a
    window has at most also takes ``length``; all others are its own, and have defaults.

    A subclass gives `forward`, `at_end` where the last state alone is cheaper, and `learn` where it has losses of its
    own or reads the answers in training (see `LearnsMore`). Whatever the padded places hold, and however many there
    are, the states of real places must not depend on it.

    Attributes:
        causal: whether a state depends on its own and earlier events alone, so that all places can be trained at once.
            One that sees later events too is trained to fill in blanks: see `twotower.towers.sequence.cloze`.
        scores: names of the scores that suit its states, its default first.
        no_onnx: why it has no ONNX form; "" where it has one.
    """

    causal: ClassVar[bool] = True
    scores: ClassVar[tuple[str, ...]] = ("dot", "cosine")
    no_onnx: ClassVar[str] = ""

    @property
    def row_by_row(self) -> bool:
        """Return whether a training step gives each user what the user would get alone."""
        return self.causal and not isinstance(self, LearnsMore)

    def forward(
        self,
        events: Float[Tensor, "users length dim"],
        mask: Bool[Tensor, "users length"],
        times: Int[Tensor, "users length"] | None = None,
    ) -> Float[Tensor, "users length dim"]:
        """Return one state a place; meaningless where it is padded.

        Args:
            events: vectors of the items.
            mask: True where there is an event.
            times: Unix seconds of the events, 0 where padded; None: the log has no clock.
        """
        raise TypeError(f"{type(self).__name__} does not read a sequence")

    def at_end(
        self,
        events: Float[Tensor, "users length dim"],
        lengths: Int[Tensor, " users"],
        times: Int[Tensor, "users length"] | None = None,
    ) -> Float[Tensor, "users dim"]:
        """Return the state at each user's last real place; meaningless where there is none."""
        places = torch.arange(events.shape[1], device=events.device)
        states = self(events, places < lengths[:, None], times)
        return states[torch.arange(events.shape[0], device=events.device), (lengths - 1).clamp(min=0)]

    def as_user(self, states: Float[Tensor, "*users dim"]) -> Float[Tensor, "*users wide"]:
        """Return the vectors whose inner products with those of items are the scores: the states as they are."""
        return states

    def as_item(self, vectors: Float[Tensor, "*items dim"]) -> Float[Tensor, "*items wide"]:
        """Return the vectors of items that users are scored with: those of the item table as they are."""
        return vectors


@runtime_checkable
class LearnsMore(Protocol):
    """Learn by more than the loss that the run names, or read in training what serving has not."""

    @property
    def whole_batch(self) -> bool:
        """Return whether its own losses compare users with each other, so that a batch must not be taken in parts."""
        ...

    def learn(
        self,
        events: Float[Tensor, "users length dim"],
        following: Float[Tensor, "users length dim"],
        mask: Bool[Tensor, "users length"],
        times: Int[Tensor, "users length"] | None = None,
    ) -> tuple[Float[Tensor, "users length dim"], dict[str, Float[Tensor, ""]]]:
        """Return one state a place, as training scores it, and the encoder's own losses by name: means over places.

        Args:
            events: vectors of the items.
            following: of the item after each: the answer.
            mask: True where there is an event, and an answer.
            times: as for `SequenceEncoder.forward`.
        """
        ...


@runtime_checkable
class Stepwise(Protocol):
    """Encode one event after the other, at a cost that does not grow with the history."""

    def step(
        self, event: Float[Tensor, "users dim"], state: State | None = None
    ) -> tuple[Float[Tensor, "users dim"], State]:
        """Return the states after one more event, and the input of the next step.

        Args:
            event: one event of each user.
            state: what the step before gave; None: there was none.
        """
        ...


def check_weights(**weights: float) -> None:
    """Refuse weights of own losses, and the like, that are negative or not finite.

    Raises:
        ValueError: naming the first one.
    """
    for name, value in weights.items():
        if not 0.0 <= value < math.inf:
            raise ValueError(f"{name} must be finite and at least 0, got {value}")


def check_heads(dim: int, heads: int) -> None:
    """Refuse heads that do not divide the width.

    Raises:
        ValueError: with both numbers.
    """
    if dim % heads:
        raise ValueError(f"heads must divide dim, got {heads} heads for dim {dim}")


def check_settings(*, share: float = 0.0, **counts: int) -> None:
    """Refuse counts below 1 and a share (of dropout) that is not in [0, 1).

    Raises:
        ValueError: naming them.
    """
    wrong = {name: value for name, value in counts.items() if value < 1}
    if wrong:
        given = ", ".join(f"{name} = {value}" for name, value in wrong.items())
        raise ValueError(f"{' and '.join(wrong)} must be at least 1, got {given}")
    if not 0.0 <= share < 1.0:
        raise ValueError(f"dropout must be in [0, 1), got {share}")
