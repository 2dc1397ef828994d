"""Interaction log as arrays: the events of each user, in time order, behind one offset a user."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from twotower.core.records import PADDING
from twotower.ops.windows import windows, windows_of_all

NO_ITEM = -1
"""Stands where a list of item rows has no item."""


class Log(NamedTuple):
    """Hold events grouped by user, oldest first; ties in time keep file order.

    ``offsets`` is int64 [num_users + 1]: user row u owns events offsets[u] to offsets[u + 1]; rows 0 and 1 own none.
    ``items`` is int64 [events]; ``times`` int64 Unix seconds or None without a clock; ``labels`` float32 or None when
    every event is a positive.
    """

    offsets: Tensor
    items: Tensor
    times: Tensor | None = None
    labels: Tensor | None = None

    @property
    def num_events(self) -> int:
        """Return how many events there are."""
        return len(self.items)

    @property
    def lengths(self) -> Tensor:
        """Return the number of events of each user row: int64 [num_users]."""
        return self.offsets.diff()

    def users(self) -> Tensor:
        """Return the user row of each event: int64 [events]."""
        rows = torch.arange(len(self.offsets) - 1, device=self.offsets.device)
        return rows.repeat_interleave(self.lengths, output_size=self.num_events)

    def select(self, mask: Tensor) -> Log:
        """Return the events where ``mask`` (bool [events]) is true, for the same users."""
        before = torch.zeros(self.num_events + 1, dtype=torch.int64, device=mask.device)
        torch.cumsum(mask, 0, out=before[1:])
        return Log(
            before[self.offsets],
            self.items[mask],
            None if self.times is None else self.times[mask],
            None if self.labels is None else self.labels[mask],
        )

    def is_positive(self) -> Tensor:
        """Return whether each event is a positive, that is has a label of at least 0.5: bool [events]."""
        return torch.ones_like(self.items, dtype=torch.bool) if self.labels is None else self.labels >= 0.5

    def positives(self) -> Log:
        """Return the events with a label of at least 0.5, without labels."""
        return self if self.labels is None else self.select(self.is_positive())._replace(labels=None)

    def seen(self, users: Tensor) -> Tensor:
        """Return the items that each of ``users`` has seen: those of all events, whatever their label.

        Bad ratings count too.

        This is what masks of answers mean by "seen", in evaluation as in serving: int64 [users, most], oldest first,
        -1 where there are no more. What a model reads, and what samplers of negatives leave out, are the `positives`.

        Examples:
            >>> log = Log(torch.tensor([0, 2, 3]), torch.tensor([4, 7, 5]), labels=torch.tensor([1.0, 0.0, 1.0]))
            >>> log.seen(torch.tensor([0, 1])).tolist()
            [[4, 7], [5, -1]]
        """
        starts, ends = self.offsets[users], self.offsets[users + 1]
        seen = windows(self.items, starts, ends, int((ends - starts).max()) if len(users) else 0)
        return seen.masked_fill(seen == PADDING, NO_ITEM)

    def windows(self, starts: Tensor, ends: Tensor, length: int) -> tuple[Tensor, Tensor | None]:
        """Return the last ``length`` items of each window of events, padded at the end, and their times if it has any.

        ``starts`` and ``ends`` are int64 [rows], places in ``items``.
        """
        if self.times is None:
            return windows(self.items, starts, ends, length), None
        items, times = windows_of_all([self.items, self.times], starts, ends, length)
        return items, times

    def to(self, device: torch.device | str) -> Log:
        """Return the log on another device."""
        return Log(*(None if part is None else part.to(device) for part in self))  # type: ignore[arg-type]
