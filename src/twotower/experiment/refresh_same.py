"""Identity of a log that went on: newer data are compared with the bundle's own, since equal ids are no proof."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.seeds import torch_generator
from twotower.serving.joined import Joined

log = logging.getLogger(__name__)

SETTLED = 0.99
"""Share of the bundle's events whose times are taken for done with: what came late, and clocks ahead, lie behind."""
MOST_LATE = 0.1
"""Share of the newer events that may have come late: lie in the bundle's time, without being in the bundle."""
LEAST_ITEMS = 50
"""Items in both from which their popularity is compared."""
UNRELATED, RELIABLE = 0.1, 0.5
"""Rank correlation below which the popularity of before says nothing of that of now, if halves of before agree so."""


def check_same_log(joined: Joined, what: str, folder: str) -> None:
    """Refuse data that contradict the bundle's own; warn of data whose popularity has nothing to do with it.

    In the bundle's own time, its users cannot have done other things than the bundle has: what newer data say of known
    users and known items there should be in the bundle, but for what came late.

    Args:
        joined: the bundle's data with the newer ones.
        what: the newer data, for messages.
        folder: of the bundle, for messages.

    Raises:
        InputError: says how many events contradict, and what to do.
    """
    events = joined.dataset.log
    assert events.times is not None
    known = (events.users() < joined.dataset.schema.num_users - joined.new_users) & (
        events.items < joined.dataset.schema.num_items - joined.new_items
    )
    stored = events.times[~joined.fresh].sort().values
    if not len(stored):
        return
    settled = int(stored[int((len(stored) - 1) * SETTLED)])
    other = int((joined.fresh & known & (events.times <= settled)).sum())
    given = int(joined.fresh.sum()) + joined.repeats
    if other > max(joined.repeats, MOST_LATE * given):
        raise InputError(
            f"{what}: {other:,} of its {given:,} events are of users and items of {folder} and of its time, and are "
            f"not in it; only {joined.repeats:,} are: this is another log with the same ids, or one with other times. "
            "Give the log as it went on, or leave out what is not newer"
        )
    _tell_unlike(events.items[~joined.fresh], events.items[joined.fresh & known], what)


def _tell_unlike(stored: Tensor, fresh: Tensor, what: str) -> None:
    """Warn where the popularity of items in newer events is not that of before, though halves of before agree."""
    size = int(stored.max()) + 1
    drawn = torch.rand(len(stored), generator=torch_generator(0, "halves")).to(stored.device) < 0.5
    before, half = stored.bincount(minlength=size), stored[drawn].bincount(minlength=size)
    now = fresh.bincount(minlength=size)[:size]
    both = (before > 0) & (now > 0)
    items = int(both.sum())
    if items < LEAST_ITEMS:
        return
    like, halves = _correlation(before[both], now[both]), _correlation(half[both], (before - half)[both])
    if like < UNRELATED and halves > RELIABLE:
        log.warning(
            "%s: how often the %d items in both occur there has nothing to do with how often they did (rank "
            "correlation %.2f; halves of the old log: %.2f): is it another log with the same ids?",
            what,
            items,
            like,
            halves,
        )


def _correlation(one: Tensor, other: Tensor) -> float:
    """Spearman's rank correlation; 0 where all are alike."""
    from scipy.stats import rankdata

    a, b = (torch.from_numpy(rankdata(part.cpu().numpy())) for part in (one, other))
    a, b = a - a.mean(), b - b.mean()
    norm = float(a.norm() * b.norm())
    return float(a @ b) / norm if norm else 0.0
