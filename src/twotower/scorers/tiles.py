"""Scores of every user with every item, in tiles, where a pair needs far more memory than its score."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from twotower.core.records import State
from twotower.core.states import rows, take

PAIRS = 16_384
"""Pairs at a time: a scorer's few hundred numbers a pair then take some 16 MiB."""


def in_tiles(score: Callable[[State, State], Tensor], users: State, items: State, *, pairs: int = PAIRS) -> Tensor:
    """Score all users with all items by ``score``, [users, items], at most ``pairs`` pairs at a time."""
    if torch.compiler.is_compiling():  # a graph has no loop over a number of rows that is not known yet
        return score(users, items)
    num_users, num_items = rows(users), rows(items)
    if num_users * num_items <= pairs:
        return score(users, items)
    wide = min(num_items, pairs)
    tall = max(1, pairs // wide)
    return torch.cat(
        [
            torch.cat(
                [
                    score(take(users, slice(u, u + tall)), take(items, slice(i, i + wide)))
                    for i in range(0, num_items, wide)
                ],
                dim=1,
            )
            for u in range(0, num_users, tall)
        ]
    )
