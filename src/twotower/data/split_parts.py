"""Parts of a split: counts along a user's events, targets, and shares of a ratio."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from twotower.core.errors import InputError, shown
from twotower.data.log import Log
from twotower.data.split import Targets

Count = int
"""A whole number of at least 1."""
Share = float
"""A number above 0 and below 1."""
Ratio = Sequence[int | float]
"""Three positive numbers: of training, validation and test."""


def counts_so_far(log: Log, counted: Tensor) -> Tensor:
    """Count the user's events where ``counted`` (bool [events]) is true, up to and with each event: int64 [events]."""
    before = torch.zeros(log.num_events + 1, dtype=torch.int64, device=log.items.device)
    torch.cumsum(counted, 0, out=before[1:])
    return before[1:] - before[log.offsets[:-1]][log.users()]


def targets_of(log: Log, known: Tensor, truth: Log) -> Targets:
    """Return targets whose history holds the known events, of whatever label, of users who are asked about."""
    return Targets(log.select(known & (truth.lengths > 0)[log.users()]), truth)


def checked_ratio(name: str, ratio: Ratio) -> tuple[float, float, float]:
    """Return the shares of training, validation and test.

    Args:
        name: of the split, for the message.
        ratio: in any unit.

    Raises:
        InputError: if these are not three positive numbers.
    """
    parts = list(ratio) if isinstance(ratio, Sequence) and not isinstance(ratio, str) else []
    if len(parts) != 3 or not all(isinstance(part, int | float) and part > 0 for part in parts):
        raise InputError(f"{name} split: ratio must be three positive numbers, as [8, 1, 1], got {shown(ratio)}")
    return parts[0] / sum(parts), parts[1] / sum(parts), parts[2] / sum(parts)
