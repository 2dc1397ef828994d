"""Logs of T2Diff's tables: positives of users with five and more, the latest 200 of each, and the items in them."""

from __future__ import annotations

from dataclasses import replace

import torch

from twotower.core.records import FIRST_KNOWN
from twotower.core.schema import Schema
from twotower.data.dataset import Dataset
from twotower.reproduce.sparcode.measure import first_events

FEWEST = 5
"""Positives of a user who counts, as in the paper."""
LATEST = 200
"""Positives of a user that are kept: so many explain the paper's counts of MovieLens-1M."""


def as_judged(dataset: Dataset) -> Dataset:
    """Return the data set as its models learn and are asked: positives alone, no features.

    Of repeated items a user's first event counts, users with fewer than `FEWEST` events have none, of all others the
    `LATEST` last stay. Items are those that still have an event, numbered anew in their order.
    """
    log = first_events(dataset.log.positives())
    users = log.users()
    from_end = log.offsets[1:][users] - torch.arange(log.num_events, device=users.device)
    log = log.select((from_end <= LATEST) & (log.lengths[users] >= FEWEST))
    items = log.items.unique()
    row_of = torch.zeros(dataset.schema.num_items, dtype=torch.int64, device=items.device)
    row_of[items] = torch.arange(len(items), device=items.device) + FIRST_KNOWN
    return replace(
        dataset,
        schema=Schema(dataset.schema.num_users, len(items) + FIRST_KNOWN, has_times=log.times is not None),
        log=log._replace(items=row_of[log.items]),
        user_features={},
        item_features={},
        folder=None,
    )
