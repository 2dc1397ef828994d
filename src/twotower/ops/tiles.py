"""Scores of users with items, one tile of items at a time, with pairs left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from twotower.core.records import State
from twotower.core.states import rows, take


def masked_tiles(
    score: Callable[[State, State], Tensor],
    users: State,
    items: State,
    tile: int,
    left_out: tuple[Tensor, Tensor] | None = None,
    allowed: Tensor | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Yield ``(first column, scores [users, at most tile])`` over all items.

    ``left_out`` names pairs as (user rows, item columns), both int64 [pairs]: their score becomes -inf. ``allowed``
    (bool [items]) says which columns keep theirs for any user. ``score`` must return a tensor of its own, since that is
    written in place.
    """
    total = rows(items)
    for start in range(0, total, tile):
        scores = score(users, items if tile >= total else take(items, slice(start, start + tile)))
        if left_out is not None:
            row, column = left_out
            if tile < total:
                here = (column >= start) & (column < start + tile)
                row, column = row[here], column[here] - start
            scores[row, column] = -torch.inf
        if allowed is not None:
            scores.masked_fill_(~allowed[start : start + tile], -torch.inf)
        yield start, scores
