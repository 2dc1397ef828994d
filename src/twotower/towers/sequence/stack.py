"""Stacks of causal blocks over events and position embeddings, the base of all encoders by causal attention."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from twotower.ops.dropout import dropout
from twotower.towers.sequence.base import SequenceEncoder


class Stack(SequenceEncoder):
    """Encode events plus position embeddings by blocks, one after the other, and a last layer norm.

    Position 0 is the oldest event of the window, in training as in serving. A block has `forward` for every place and
    `at_end` for the last real one alone.

    Args:
        dim: width of events and states.
        length: places of a window.
        layers: blocks.
        block: makes one.
        dropout: share of numbers set to 0 in training, of events with their positions.
    """

    def __init__(self, *, dim: int, length: int, layers: int, block: Callable[[], nn.Module], dropout: float) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(length, dim) * dim**-0.5)
        self.dropout = dropout
        self.blocks = nn.ModuleList(block() for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def forward(
        self,
        events: Float[Tensor, "users length dim"],
        mask: Bool[Tensor, "users length"] | None = None,
        times: Int[Tensor, "users length"] | None = None,
    ) -> Float[Tensor, "users length dim"]:
        """Return one state a place; padding comes last, where no real place attends to it."""
        x = self._placed(events)
        for block in self.blocks:
            x = block(x, times)
        return self.norm(x)

    def at_end(
        self,
        events: Float[Tensor, "users length dim"],
        lengths: Int[Tensor, " users"],
        times: Int[Tensor, "users length"] | None = None,
    ) -> Float[Tensor, "users dim"]:
        """Return the state at each user's last real place; the last block works for that place alone."""
        x = self._placed(events)
        for block in list(self.blocks)[:-1]:
            x = block(x, times)
        return self.norm(self.blocks[-1].at_end(x, lengths, times))  # type: ignore[operator]

    def _placed(self, events: Tensor) -> Tensor:
        return dropout(events + self.positions[: events.shape[1]], self.dropout, self.training)
