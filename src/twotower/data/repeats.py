"""Repeats of a log: the share of next items that their users have seen before, and what to do about it."""

from __future__ import annotations

from typing import Any

from twotower.data.log import Log

MANY = 0.1
"""From this share on, whether answers leave out what was seen decides the figures."""
KEEP_SEEN = "evaluation.mask_seen = false"


def repeats_of(log: Log) -> dict[str, Any]:
    """Count the events that repeat an earlier item of their user, with their share of all that have earlier ones.

    ``advice`` says what to do, where the share is at least a tenth; else it is empty. In a log without order the counts
    are the same: of several events of a user and an item one is the first.
    """
    users = log.users()
    width = int(log.items.max()) + 1 if log.num_events else 1
    pairs = len((users * width + log.items).unique())
    later = log.num_events - int((log.lengths > 0).sum())
    events = log.num_events - pairs
    return figures(events, later)


def figures(events: int, later: int) -> dict[str, Any]:
    """Return the entry of ``events`` repeats among ``later`` events that are not their user's first."""
    share = events / later if later else 0.0
    return {"events": events, "share": share, "advice": advice(share)}


def advice(share: float) -> str:
    """Return what to do about a share of repeats; empty where there are few.

    Examples:
        >>> advice(0.02)
        ''
    """
    if share < MANY:
        return ""
    return (
        f"{share:.0%} of a user's later events are of items seen before, which answers leave out by default: to judge "
        f"and recommend with them, train with {KEEP_SEEN} (--set evaluation.mask_seen=false), or say --include-seen to "
        "'evaluate' and 'recommend'; if only new items count, prepare with duplicates = \"first\""
    )
