"""Pooling of a history's items into one vector: their mean, or a mean in which recent items count more."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from twotower.core.errors import unknown_name
from twotower.core.records import PADDING
from twotower.towers.table import Table

POOLINGS = ("mean", "recency", "both")
FIRST_RATE = 0.1
"""Decay a place at the start: an item ten places back weighs 1 / e of the latest."""


class HistoryPooling(nn.Module):
    """Pool the embeddings of a history's items into one vector a user.

    With n items, the latest at place 0, item k places back has the weight

        mean     1 / n
        recency  exp(-r k) / Σ_j exp(-r j), where the rate r > 0 is learnt

    "both" lays the two vectors side by side. An empty history gives the zero vector.

    Source: the mean is that of Covington et al., RecSys 2016. Differences: the recency mean, and ``dropout``, which
    leaves out whole items of a history in training, as the denoising of Liang et al., WWW 2018 (Mult-DAE), does.

    Args:
        pooling: "mean", "recency" or "both".
        dropout: share of a history's items, each by itself, that are left out in training; in [0, 1).

    Raises:
        InputError: if the pooling is unknown.
        ValueError: if ``dropout`` is out of range.
    """

    def __init__(self, *, pooling: str = "mean", dropout: float = 0.0) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise unknown_name("pooling", pooling, POOLINGS)
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"history_dropout must be in [0, 1), got {dropout}")
        self.pooling, self.dropout = pooling, dropout
        if pooling != "mean":
            self.raw_rate = nn.Parameter(torch.tensor(math.log(math.expm1(FIRST_RATE))))

    @property
    def parts(self) -> int:
        """Return how many vectors are concatenated."""
        return 2 if self.pooling == "both" else 1

    def forward(self, table: Table, history: Int[Tensor, "rows length"]) -> Float[Tensor, "rows width"]:
        """Pool the vectors of ``table`` that a history names (padded at the end)."""
        drops = self.training and self.dropout > 0
        if self.pooling == "mean" and not drops:
            return table.mean(history)
        kept = history != PADDING
        if drops:
            kept = kept & (torch.rand(history.shape, device=history.device) >= self.dropout)
        parts = []
        if self.pooling != "recency":
            parts.append(table.mean(history.masked_fill(~kept, PADDING)))
        if self.pooling != "mean":
            parts.append(self._recent(table, history, kept))
        return torch.cat(parts, dim=1)

    def _recent(self, table: Table, history: Tensor, kept: Tensor) -> Tensor:
        lengths = (history != PADDING).sum(1, keepdim=True)
        back = lengths - 1 - torch.arange(history.shape[1], device=history.device)
        logits = -F.softplus(self.raw_rate) * back
        # Where nothing is kept the softmax would be NaN: a finite floor, and weights of zero afterwards.
        weights = logits.masked_fill(~kept, torch.finfo(logits.dtype).min).softmax(1) * kept
        vectors = table(history)
        return (vectors * weights[:, :, None].to(vectors.dtype)).sum(1)
