"""Time between events as a vector, an input of any sequence encoder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from twotower.towers.sequence.relative_bias import lag_edges

BUCKETS = 64
"""Of time: the last one begins after five years."""


class TimeGaps(nn.Module):
    """Learn a vector for each bucket of the time since the event before; it is added to the event's vector.

    Buckets are those of `RelativeBias`. A clock that goes back counts like one that goes forward. The first event of a
    window has no event before it, and nothing is added. All vectors start at 0.

    Source: after Li et al., "Time interval aware self-attention for sequential recommendation", WSDM 2020, which lets
    attention read every pair's interval. Here an event knows the one before it alone, so that encoders without
    attention can read it too.

    Args:
        dim: width of events.
    """

    edges: Tensor

    def __init__(self, *, dim: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.zeros(BUCKETS, dim))
        self.register_buffer("edges", lag_edges(BUCKETS), persistent=False)

    def forward(self, times: Int[Tensor, "users length"]) -> Float[Tensor, "users length dim"]:
        """Return what is added to each event; meaningless where it is padded."""
        gaps = times.diff(dim=1).abs()
        found = F.embedding(torch.bucketize(gaps, self.edges, right=True), self.vectors)
        return F.pad(found, (0, 0, 1, 0))
