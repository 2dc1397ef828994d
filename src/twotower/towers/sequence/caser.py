"""Caser: the last few events as a small image, read by horizontal and vertical convolutions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from twotower.ops.dropout import dropout
from twotower.towers.sequence.base import SequenceEncoder, check_settings

MOST_PLACES = 100
"""Bound of a window, whose weights grow with its square."""


class Caser(SequenceEncoder):
    """Convolve over the last ``window`` events: unions of a few in a row, and weighted sums of all.

    The window of a place ends with it, so that every place is trained at once. Horizontal filters of height h look at h
    events in a row and keep their largest answer in the window, for h = 1 to ``window``; vertical filters are sums of
    the window's events with one learnt weight a row. Both feed one layer of the width of the items. Places before the
    first event hold the zero vector.

    Source: Tang and Wang, "Personalized top-n sequential recommendation via convolutional sequence embedding", WSDM
    2018, section 3. Differences: no vector of the user, so that a history alone is enough; the target is the next item
    (the paper also takes those after it), and the loss is chosen by the run (the paper's is BCE).

    Args:
        dim: width of events and states.
        window: events that a state is made from (L).
        horizontal: filters of each height (n).
        vertical: vertical filters (ñ).
        dropout: share of numbers set to 0 in training, of what the filters found.
    """

    def __init__(
        self, *, dim: int, window: int = 5, horizontal: int = 16, vertical: int = 4, dropout: float = 0.2
    ) -> None:
        super().__init__()
        check_settings(share=dropout, dim=dim, window=window, horizontal=horizontal, vertical=vertical)
        if window > MOST_PLACES:
            raise ValueError(
                f"window must be at most {MOST_PLACES}, got {window}: it has filters of every height up to it"
            )
        self.window = window
        self.dropout = dropout
        self.horizontal = nn.ModuleList(nn.Conv1d(dim, horizontal, height) for height in range(1, window + 1))
        self.vertical = nn.Conv1d(1, vertical, window, bias=False)
        self.project = nn.Linear(window * horizontal + vertical * dim, dim)

    def forward(
        self,
        events: Float[Tensor, "users length dim"],
        mask: Bool[Tensor, "users length"],
        times: Int[Tensor, "users length"] | None = None,
    ) -> Float[Tensor, "users length dim"]:
        """Return one state a place."""
        users, length, _ = events.shape
        picture = F.pad(events.mT, (self.window - 1, 0))
        found = []
        for height, filters in enumerate(self.horizontal, start=1):
            # The answers of a window of places are window − height + 1 in a row.
            found.append(F.max_pool1d(F.relu(filters(picture)), self.window - height + 1, stride=1))
        sums = self.vertical(picture.flatten(0, 1)[:, None])
        found.append(sums.reshape(users, -1, length))
        joined = dropout(torch.cat(found, dim=1).mT, self.dropout, self.training)
        return F.relu(self.project(joined))
