"""Co-occurrence: histories as sets, and how often two items have a user in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

from twotower.core.records import FIRST_KNOWN, PADDING
from twotower.data.log import Log
from twotower.towers.node_scorer import latest_first

if TYPE_CHECKING:
    from scipy.sparse import csr_array


def distinct_items(history: Int[Tensor, "rows length"]) -> Int[Tensor, "rows length"]:
    """Return each item of a row once, ascending, with 0 in place of repeats.

    Examples:
        >>> import torch
        >>> distinct_items(torch.tensor([[4, 3, 4, 0]]))
        tensor([[0, 3, 4, 0]])
    """
    items = history.sort(dim=1).values
    items[:, 1:].masked_fill_(items[:, 1:] == items[:, :-1], PADDING)
    return items


def latest_distinct(history: Int[Tensor, "rows length"], longest: int) -> Int[Tensor, "rows longest"]:
    """Return each item among a row's latest ``longest`` events once, the latest first, padded at the end.

    Examples:
        >>> import torch
        >>> latest_distinct(torch.tensor([[7, 4, 3, 4, 0]]), 3)
        tensor([[4, 3, 0]])
    """
    latest = latest_first(history, longest)
    items, places = latest.sort(dim=1, stable=True)
    again = torch.zeros_like(items, dtype=torch.bool)
    again[:, 1:] = items[:, 1:] == items[:, :-1]
    once = latest.masked_fill(again.scatter(1, places, again), PADDING)
    return once.gather(1, (once == PADDING).sort(dim=1, stable=True).indices)


def incidence(log: Log, num_items: int) -> csr_array:
    """Return users × items: 1 where the user has a positive event with the known item, float32."""
    import numpy as np
    from scipy.sparse import csr_array

    log = log.positives().to("cpu")
    log = log.select(log.items >= FIRST_KNOWN)
    ones = np.ones(log.num_events, dtype=np.float32)
    matrix = csr_array((ones, log.items.numpy(), log.offsets.numpy()), shape=(len(log.offsets) - 1, num_items))
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix
