"""Exact log q of in-batch negatives: how often each item occurs in the training log."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import FIRST_KNOWN


class ItemCounts:
    """Compute the log probability of one draw from counts of the training log: log(count / events).

    An item that the log does not hold has probability 0 and log q −inf. Nothing is clipped: `unseen` lists those
    items, and `require_seen` refuses them, before training, where a source could bring them up.

    Args:
        items: the item of each training event (only of training: counts of test rows would leak).
        num_items: rows of the item vocabulary, padding and unknown included.
        smoothing: added to the count of every known item; 0 is exact.

    Raises:
        InputError: if there are no events, or ids lie outside the vocabulary.

    Examples:
        >>> counts = ItemCounts(torch.tensor([2, 2, 3, 2]), num_items=5)
        >>> counts.log_q(torch.tensor([2, 3, 4])).exp()
        tensor([0.7500, 0.2500, 0.0000])
        >>> counts.unseen
        tensor([4])
    """

    def __init__(self, items: Int[Tensor, " events"], num_items: int, *, smoothing: float = 0.0) -> None:
        if not len(items):
            raise InputError("item counts: the training log has no events")
        if int(items.min()) < FIRST_KNOWN or int(items.max()) >= num_items:
            raise InputError(
                f"item counts: ids must lie in {FIRST_KNOWN} to {num_items - 1}, "
                f"got {int(items.min())} to {int(items.max())}"
            )
        if smoothing < 0.0:
            raise InputError(f"item counts: smoothing must not be negative, got {smoothing!r}")
        self.counts = torch.bincount(items, minlength=num_items)
        weights = self.counts.double()
        weights[FIRST_KNOWN:] += smoothing
        self.probabilities = weights / weights.sum()
        self._log_q = self.probabilities.log().float()

    def to(self, device: torch.device | str) -> ItemCounts:
        """Return the same counts on another device."""
        moved = object.__new__(ItemCounts)
        moved.counts, moved.probabilities, moved._log_q = (
            part.to(device) for part in (self.counts, self.probabilities, self._log_q)
        )
        return moved

    @property
    def unseen(self) -> Tensor:
        """Return the known items without a training event: int64, ascending."""
        return (self.counts[FIRST_KNOWN:] == 0).nonzero()[:, 0] + FIRST_KNOWN

    def observe(self, ids: Tensor) -> None:
        """Do nothing: exact counts do not change."""

    def log_q(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the log of the probability of one draw; −inf for an unseen item."""
        return self._log_q[ids]

    def require_seen(self, ids: Int[Tensor, " ids"], where: str) -> None:
        """Refuse items of probability 0.

        Raises:
            InputError: if one of ``ids`` has no training event and there is no smoothing.
        """
        missing = ids[self._log_q[ids] == float("-inf")].unique()
        if len(missing):
            raise InputError(
                f"{where}: {len(missing)} items have no training event (the first is row {int(missing[0])}), so their "
                "log q is -inf; leave them out, or set smoothing above 0"
            )
