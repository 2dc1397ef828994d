"""Scores of users with every item, or with those of their row, in tiles: where a pair takes far more than its score."""

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


def rows_in_tiles(score: Callable[[State, Tensor], Tensor], users: State, items: Tensor, *, pairs: int) -> Tensor:
    """Score each user with the items of its own row, [rows, n], at most ``pairs`` pairs at a time."""
    num_users, n = items.shape[:2]
    if torch.compiler.is_compiling() or num_users * n <= pairs:
        return score(users, items)
    wide = min(n, pairs)
    tall = max(1, pairs // wide)
    return torch.cat(
        [
            torch.cat([score(take(users, part), items[part, i : i + wide]) for i in range(0, n, wide)], dim=1)
            for part in (slice(u, u + tall) for u in range(0, num_users, tall))
        ]
    )
