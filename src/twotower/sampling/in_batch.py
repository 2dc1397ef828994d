"""In-batch negative sampling (IBNS): the items of the batch's other rows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import Batch, Negatives
from twotower.sampling.base import Frequency, Stateful, batch_items
from twotower.sampling.counts import ItemCounts


class InBatch:
    """Offer the batch's own items to all rows.

    A row's own column is its positive and is masked by the step.

    For a row the other B − 1 are draws from the training log, so log q = log(B − 1) + log p(item). With a ``count`` it
    is log(count · (B − 1) / B) + log p(item), the mean over a row's place in a batch of random order. They cost no
    encoding. An item without training events never comes up: this source estimates the softmax over seen items.

    Source: Yi et al., RecSys 2019; section 3.1 of the negative-sampling report.

    Args:
        frequency: p above; None leaves the softmax uncorrected (log q = 0), which pushes popular items down.
        count: take the items of the first ``count`` rows only, such as to leave room for other sources; None: all.

    Raises:
        InputError: if ``count`` is below 1.

    Examples:
        >>> from twotower.core.records import Items, Users
        >>> from twotower.sampling.counts import ItemCounts
        >>> batch = Batch(Users(torch.tensor([2, 3]), {}, torch.zeros(2, 0)), Items(torch.tensor([4, 2])))
        >>> negatives = InBatch(ItemCounts(torch.tensor([2, 4, 4, 4]), 5)).sample(batch)
        >>> negatives.ids, negatives.log_q.exp(), negatives.in_batch
        (tensor([4, 2]), tensor([0.7500, 0.2500]), 2)
    """

    def __init__(self, frequency: Frequency | None, *, count: int | None = None) -> None:
        if count is not None and count < 1:
            raise InputError(f"in-batch negatives: count must be at least 1, got {count}")
        self.frequency = frequency
        self.count = count

    def sample(self, batch: Batch) -> Negatives:
        """Return the paired items of the batch, in order."""
        ids = batch_items(batch)
        if self.frequency is not None:
            self.frequency.observe(ids)
        taken = ids[: self.count]
        return Negatives(taken, self.log_q(taken, len(ids)), in_batch=len(taken))

    def log_q(self, ids: Tensor, rows: int) -> Tensor:
        """Return the log of the expected count of any item in a batch of ``rows``; −inf without training events."""
        if self.frequency is None:
            return torch.zeros(ids.shape, device=ids.device)
        taken = min(self.count or rows, rows)
        return self.frequency.log_q(ids) + math.log(taken * max(rows - 1, 1) / rows)

    def replayed(self) -> list[torch.Generator] | None:
        """Return no generator, as it draws nothing; None with a frequency that is learned from the stream."""
        return [] if self.frequency is None or isinstance(self.frequency, ItemCounts) else None

    def state_dict(self) -> dict[str, Tensor]:
        """Return that of a frequency that is learned from the stream; nothing for exact counts."""
        return self.frequency.state_dict() if isinstance(self.frequency, Stateful) else {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the state of the frequency."""
        if isinstance(self.frequency, Stateful):
            self.frequency.load_state_dict(state)
