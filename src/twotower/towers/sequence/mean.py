"""Mean of the events so far: the history of a plain two-tower, as a sequence encoder."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from twotower.towers.sequence.base import SequenceEncoder


class MeanSoFar(SequenceEncoder):
    """Encode each place as the mean of its own event and all before it; without parameters and without order."""

    def __init__(self, *, dim: int) -> None:
        super().__init__()

    def forward(
        self,
        events: Float[Tensor, "users length dim"],
        mask: Bool[Tensor, "users length"],
        times: Int[Tensor, "users length"] | None = None,
    ) -> Float[Tensor, "users length dim"]:
        """Return one state a place."""
        count = torch.arange(1, events.shape[1] + 1, device=events.device)
        return events.cumsum(1) / count[:, None]
