"""Split of a fit: at one moment for all users where enough come back after it, else each user's last event."""

from __future__ import annotations

import torch

from twotower.core.errors import InputError
from twotower.data.log import Log
from twotower.data.split import Split, Targets
from twotower.data.splitters import split_log

LEAST_USERS = 1_000
"""So many users with a history must be asked about in validation and test, or figures would say little."""
LEAST_KNOWN_USERS = 0.5
"""Share of the users asked about who have a history: a ladder of models is of no use to the others."""
LEAST_KNOWN_ITEMS = 0.8
"""Share of the events asked about whose item has been seen in training: no model without features finds the others."""


def choose_split(log: Log) -> tuple[str, str]:
    """Return the kind of split for a log, and why, in one sentence.

    A cut at one moment lets nothing of the future into training, but leaves few users with a history where everybody
    came once; then each user's last events are held out, which leaks the popularity of the future alone.
    """
    if log.times is None:
        return "leave-one-out", "split: each user's last events, since the log has no clock to cut it by"
    try:
        split = split_log(log, "global-time")
    except InputError:
        return "leave-one-out", "split: each user's last events, since the log is too short to be cut at one moment"
    doubts = [doubt for part in (split.validation, split.test) if (doubt := _doubt(split, part))]
    if doubts:
        return "leave-one-out", f"split: each user's last events, since of a cut at one moment {doubts[0]}"
    return "global-time", "split: at one moment for all, so that nothing of the future reaches training"


def _doubt(split: Split, part: Targets) -> str:
    asked = part.users()
    known = int((part.history.lengths[asked] > 0).sum())
    if known < LEAST_USERS:
        return f"{known:,} users with a history would be asked about, and {LEAST_USERS:,} are wanted"
    if known < LEAST_KNOWN_USERS * len(asked):
        return f"only {known / len(asked):.0%} of the users asked about would have a history"
    share = float(torch.isin(part.truth.items, split.train.items).double().mean())
    return f"only {share:.0%} of the events asked about would be of known items" if share < LEAST_KNOWN_ITEMS else ""
