"""Relative bias of attention: a number for the distance of two events in places and in time."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

STEP = 0.301
"""A bucket of time is exp(0.301) = 1.35 times as long as the one before."""
MOST_BUCKETS = 140
"""Edges of later ones do not fit into 64 bits."""


def lag_edges(buckets: int) -> Int[Tensor, " edges"]:
    """Return the first lag in seconds of each bucket of time but the first: whole numbers, the same on every device."""
    if buckets > MOST_BUCKETS:
        raise ValueError(f"time_buckets must be at most {MOST_BUCKETS}, got {buckets}: later ones pass every clock")
    edges = [math.ceil(math.exp(STEP * bucket)) for bucket in range(1, buckets)]
    return torch.tensor(edges, dtype=torch.int64)


def numbers_of(lags: Int[Tensor, "*shape"], edges: Int[Tensor, " edges"], by_lag: Tensor) -> Float[Tensor, "*shape"]:
    """Return the number of each lag's bucket.

    The gradient of a few numbers that are each read millions of times is slow on a GPU where they are indexed: one warp
    adds up all of a number. That of an embedding is added up in parts, in a fixed order too; on a CPU it is slower.
    """
    buckets = torch.bucketize(lags, edges, right=True, out_int32=by_lag.is_cuda)
    return F.embedding(buckets, by_lag[:, None])[..., 0] if by_lag.is_cuda else by_lag[buckets]


class RelativeBias(nn.Module):
    """Learn a number for each distance in places, plus one for each bucket of the time between two events.

    Bucket k holds lags of e^(0.301 k) to e^(0.301 (k+1)) seconds; the first also holds lags of no time, the last all
    longer ones (with 64 buckets: five years). A lag counts the same in both directions, so that a clock that goes back
    does no harm. Where no times are given the numbers of time are left out. All numbers start at 0.

    Source: Zhai et al., "Actions speak louder than words", ICML 2024, section 3.2, rab^{p,t}; the buckets are those of
    its public configuration. Difference: there the time of the *next* event stands for the query's, here its own, so
    that a state depends on nothing later.

    Args:
        length: places of a window; larger distances are refused by indexing.
        buckets: of time; 0: places alone.
    """

    edges: Tensor

    def __init__(self, *, length: int, buckets: int = 64) -> None:
        super().__init__()
        self.by_distance = nn.Parameter(torch.zeros(length))
        self.by_lag = nn.Parameter(torch.zeros(buckets)) if buckets else None
        self.register_buffer("edges", lag_edges(buckets), persistent=False)

    def forward(
        self, length: int, times: Int[Tensor, "users length"] | None
    ) -> Float[Tensor, "users 1 length length"] | Float[Tensor, "1 1 length length"]:
        """Return what is added to attention for the event of each row (query) and column (key), alike for all heads."""
        places = torch.arange(length, device=self.by_distance.device)
        bias = self.by_distance[(places[:, None] - places).clamp(min=0)][None, None]
        if times is None or self.by_lag is None:
            return bias
        lags = (times[:, :, None] - times[:, None]).abs()
        return bias + numbers_of(lags, self.edges, self.by_lag)[:, None]

    def at_end(
        self, end: Int[Tensor, " users"], length: int, times: Int[Tensor, "users length"] | None
    ) -> Float[Tensor, "users 1 1 length"]:
        """Return the row of each user's place ``end`` alone; meaningless for later keys."""
        places = torch.arange(length, device=self.by_distance.device)
        bias = self.by_distance[(end[:, None] - places).clamp(min=0)]
        if times is not None and self.by_lag is not None:
            lags = (times.gather(1, end[:, None]) - times).abs()
            bias = bias + numbers_of(lags, self.edges, self.by_lag)
        return bias[:, None, None]
