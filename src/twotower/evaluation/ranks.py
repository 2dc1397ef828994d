"""Ranks of the relevant items in each user's list: by counting what is above them, or from the list itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor

from twotower.core.records import TopK
from twotower.metrics.ranking import MISSED
from twotower.ops.topk import top_k_of_tiles

Tiles: TypeAlias = Callable[[], Iterable[tuple[int, Tensor]]]
"""Gives the same tiles (first column, scores [users, width]) each time it is called."""


class Ranks(NamedTuple):
    """Hold ranks of pairs: 0-based, ties to the lower column, `MISSED` where not in the list.

    ``not_allowed`` is true where the pair's own score is -inf. ``faulty`` is true (0-d) when some score is NaN.
    """

    ranks: Tensor
    not_allowed: Tensor
    faulty: Tensor


def ranks_by_counting(tiles: Tiles, rows: Int[Tensor, " pairs"], columns: Int[Tensor, " pairs"]) -> Ranks:
    """Return ranks of the pairs (row, column), each among all columns of its row; ``rows`` ascend.

    The rank is the number of columns with a higher score, or the same score and a lower number. Nothing is sorted, so
    it is the quick way for few pairs a row. Own scores are taken from the same tiles that they are compared with:
    recomputed ones may differ in the last bit.
    """
    own = _OwnScores(rows, columns)
    for _ in own.watch(tiles()):
        pass
    ranks = torch.zeros_like(rows)
    nth = torch.arange(len(rows), device=rows.device) - torch.searchsorted(rows, rows)
    turns = [(nth == turn).nonzero()[:, 0] for turn in range(int(nth.max()) + 1 if len(nth) else 0)]
    for start, scores in tiles():
        for pairs in turns:
            row, column, mine = rows[pairs], columns[pairs] - start, own.scores[pairs].to(scores.dtype)
            part = scores if len(row) == len(scores) else scores[row]
            above, level = _count(part > mine[:, None]), _count(part >= mine[:, None])
            is_here = (column >= 0) & (column < part.shape[1])
            shared = ((level - above > is_here.int()) & (mine > -torch.inf)).nonzero()[:, 0]
            if len(shared):
                numbers = torch.arange(part.shape[1], device=part.device)
                before = (part[shared] == mine[shared, None]) & (numbers < column[shared, None])
                above[shared] += _count(before)
            ranks[pairs] += above
    not_allowed = own.scores == -torch.inf
    return Ranks(ranks.masked_fill_(not_allowed, MISSED), not_allowed, own.faulty)


def ranks_in_lists(
    tiles: Tiles, rows: Int[Tensor, " pairs"], columns: Int[Tensor, " pairs"], k: int
) -> tuple[Ranks, TopK]:
    """Return ranks of the pairs among the first ``k`` of their row, `MISSED` beyond, and the lists themselves."""
    own = _OwnScores(rows, columns)
    best = top_k_of_tiles(own.watch(tiles()), k)
    same = best.ids[rows] == columns[:, None]
    ranks = torch.where(same.any(dim=1), same.int().argmax(dim=1), MISSED)
    return Ranks(ranks, own.scores == -torch.inf, own.faulty), best


class _OwnScores:
    """The pairs' own scores, and whether any score is NaN, noted down as tiles go by."""

    def __init__(self, rows: Tensor, columns: Tensor) -> None:
        self.rows, self.columns = rows, columns
        self.scores = torch.full(rows.shape, -torch.inf, dtype=torch.float64, device=rows.device)
        self.faulty = torch.zeros((), dtype=torch.bool, device=rows.device)

    def watch(self, tiles: Iterable[tuple[int, Tensor]]) -> Iterator[tuple[int, Tensor]]:
        """Hand the tiles on."""
        for start, scores in tiles:
            column = self.columns - start
            inside = (column >= 0) & (column < scores.shape[1])
            there = scores[self.rows, column.clamp(0, scores.shape[1] - 1)].double()
            self.scores = torch.where(inside, there, self.scores)
            self.faulty |= scores.amax(dim=1).isnan().any()
            yield start, scores


def _count(mask: Tensor) -> Tensor:
    """True entries of each row. As int8, which torch adds up about twice as fast as booleans."""
    return mask.view(torch.int8).sum(dim=1, dtype=torch.int32)
