"""Training examples: rows cut from the log by index arithmetic, on the device of the log."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import PADDING, Batch, Items
from twotower.data.dataset import Dataset, moved
from twotower.data.log import Log
from twotower.ops.windows import places, windows


@runtime_checkable
class Rows(Protocol):
    """Cut training rows into batches."""

    def __len__(self) -> int:
        """Return how many rows there are."""
        ...

    def cut(self, rows: Tensor) -> Batch:
        """Return the batch of these rows: ``rows`` int64 [rows], on the CPU."""
        ...


class EventRows:
    """Cut rows of one event: its user, the positives before it as history, its item, its label if there is one.

    Args:
        dataset: features of users and items.
        log: training events; with labels, its negatives are rows too, but never history.
        history_length: latest items of the history.
        item_features: whether batches carry item features; without, the step looks them up for what it encodes.
        times: whether batches carry the times of the history.
    """

    def __init__(
        self, dataset: Dataset, log: Log, *, history_length: int, item_features: bool, times: bool = True
    ) -> None:
        if not log.num_events:
            raise InputError(f"data set '{dataset.name}': no events to train on")
        self.dataset = dataset
        self.log = log
        self.history = log.positives() if times else log.positives()._replace(times=None)
        self.history_length = history_length
        self.item_features = item_features
        self.event_users = log.users()
        self.ends: Tensor | None = None  # an event's own place
        if log.labels is not None:
            positive = log.is_positive().to(torch.int64)
            self.ends = positive.cumsum(0) - positive

    def __len__(self) -> int:
        return self.log.num_events

    def cut(self, rows: Tensor) -> Batch:
        """Return the batch of these events."""
        rows = rows.to(self.log.items.device, non_blocking=True)
        users, ends = self.event_users[rows], rows if self.ends is None else self.ends[rows]
        starts = self.history.offsets[users]
        history, times = self.history.windows(starts, ends, self.history_length)
        ids = self.log.items[rows]
        items = self.dataset.items(ids) if self.item_features else Items(moved(ids, self.dataset.device))
        labels = None if self.log.labels is None else moved(self.log.labels[rows], self.dataset.device)
        return Batch(self.dataset.users(users, history, times), items, labels)


class SequenceRows:
    """Cut rows of a user's latest window of positives: each item is paired with the one that follows it.

    Users with fewer than two events give no row. A batch is as long as its longest row.

    Args:
        dataset: features of users and items.
        log: training events.
        history_length: latest items of the history.
        item_features: whether batches carry item features.
        one_width: whether every batch is ``history_length`` long, so that all have one shape.
    """

    def __init__(
        self, dataset: Dataset, log: Log, *, history_length: int, item_features: bool, one_width: bool = False
    ) -> None:
        self.dataset = dataset
        self.width = history_length if one_width else 0
        self.log = log = log.positives()
        self.item_features = item_features
        self.rows = (log.lengths >= 2).nonzero()[:, 0]
        if not len(self.rows):
            raise InputError(f"data set '{dataset.name}': no user has two events, so there is no sequence to train on")
        self.ends = log.offsets[self.rows + 1]
        self.starts = torch.maximum(log.offsets[self.rows], self.ends - history_length - 1)
        self.lengths = (self.ends - self.starts - 1).cpu()
        """Positions of each row, on the CPU."""

    def __len__(self) -> int:
        return len(self.rows)

    def cut(self, rows: Tensor) -> Batch:
        """Return the batch of these windows."""
        lengths = self.lengths[rows]
        longest, total = self.width or int(lengths.max()), int(lengths.sum())
        rows = rows.to(self.log.items.device, non_blocking=True)
        starts, ends = self.starts[rows], self.ends[rows]
        pairs = places(ends - starts - 1, longest, total)
        window = windows(self.log.items, starts, ends, longest + 1)
        ids = window[:, 1:].contiguous()
        history = window[:, :-1].masked_fill(ids == PADDING, PADDING)
        times = None if self.log.times is None else windows(self.log.times, starts, ends - 1, longest)
        device = self.dataset.device
        items = self.dataset.items(ids.flatten()) if self.item_features else Items(ids)
        items = items._replace(ids=moved(ids, device))
        return Batch(self.dataset.users(self.rows[rows], history, times), items, pairs=moved(pairs, device))
