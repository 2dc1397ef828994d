"""Cosines of all pairs of rows in tiles: a fine histogram of them, and each row's nearest rows, in one pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from twotower.ops.share import ALONE, Share

BINS_PER_UNIT = 625_000
"""Fine bins per unit of cosine: the middle of a bin is within 0.8e-6 of what it holds, and float32 adds 0.1e-6."""
_GROUP = 64
_TILE_NUMBERS = 4_000_000
_COUNTED_NUMBERS = 12_000_000  # a large tile, since each adds all bins to the histogram
_BINS = 2 * BINS_PER_UNIT
_TRASH = _BINS + 1


class Directions(NamedTuple):
    """Hold unit vectors about their mean m: ``rows`` [n, dim] = u − m, ``lift`` [n] = (u − m)·m, ``offset`` = m·m.

    cos(i, j) = rows_i·rows_j + lift_i + lift_j + offset. Held apart like this, float32 resolves the differences inside
    a narrow cone, which the cosines themselves (all near 1) would round away.
    """

    rows: Tensor
    lift: Tensor
    offset: float

    @property
    def mean_square(self) -> float:
        """Return the mean of |u − m|² over the rows: 1 − |m|², the spread of the directions, between 0 and 1."""
        return self.rows.double().square().sum(1).mean().item()


def directions(unit: Float[Tensor, "rows dim"], *, dtype: torch.dtype) -> Directions:
    """Return unit vectors as `Directions` in ``dtype``.

    ``unit`` should be float64, so that the mean is removed exactly.
    """
    mean = unit.mean(0)
    rows = unit - mean
    return Directions(rows.to(dtype), (rows @ mean).to(dtype), mean.square().sum().item())


class PairScan(NamedTuple):
    """Hold the nearest rows and the histogram that one pass gives.

    ``histogram`` counts unordered pairs by fine bin of cosine: int64 [2 * BINS_PER_UNIT], from -1 to 1; None when it
    was not asked for.
    ``similarities`` and ``neighbours`` [rows, k] are each row's nearest other rows, best first.
    """

    histogram: Tensor | None
    similarities: Tensor
    neighbours: Tensor


def top_k(scores: Float[Tensor, "rows columns"], k: int) -> tuple[Tensor, Tensor]:
    """Return the exact top k of each row, best first: values and columns.

    The k best lie in the k groups of 64 columns with the best maxima, so only those are sorted.

    Examples:
        >>> top_k(torch.tensor([[1.0, 3.0, 2.0]]), 2)
        (tensor([[3., 2.]]), tensor([[1, 2]]))
    """
    rows, columns = scores.shape
    if columns % _GROUP or columns < 4 * _GROUP * k:
        best = scores.topk(k, dim=1)
        return best.values, best.indices
    grouped = scores.view(rows, -1, _GROUP)
    groups = grouped.amax(2).topk(k, dim=1).indices
    candidates = grouped.gather(1, groups[:, :, None].expand(-1, -1, _GROUP)).flatten(1)
    best = candidates.topk(k, dim=1)
    return best.values, groups.gather(1, best.indices // _GROUP) * _GROUP + best.indices % _GROUP


def scan_pairs(space: Directions, k: int, *, count: bool = True, share: Share = ALONE) -> PairScan:
    """Return the ``k`` nearest rows of every row and, with ``count``, the histogram of all pairs' cosines.

    Work is rows² · dim; memory is one tile of 12 million cosines, whatever the number of rows. With ``share`` the tiles
    are dealt out over ranks: the same answer to the bit, on all of them.

    Raises:
        ValueError: if ``k`` is not from 1 to rows − 1.
    """
    n = len(space.rows)
    if not 1 <= k < n:
        raise ValueError(f"k must be from 1 to rows - 1 = {n - 1}, got {k}")
    left, right = _augmented(space)
    right = torch.cat([right, right.new_zeros(-n % _GROUP, right.shape[1])]).T.contiguous()
    tile = max(1, min(n, (_COUNTED_NUMBERS if count else _TILE_NUMBERS) // right.shape[1]))
    scores = right.new_empty(tile, right.shape[1])
    bins = torch.empty(tile * n if count else 0, dtype=torch.int32)
    scaled = right.new_empty(tile * n if count else 0)
    first = right.new_tensor((1.0 + space.offset) * BINS_PER_UNIT)
    histogram = torch.zeros(_TRASH + 1, dtype=torch.int64) if count else None
    values, columns = scores.new_zeros(n, k), torch.zeros(n, k, dtype=torch.int64)
    for number, start in enumerate(range(0, n, tile)):
        if not share.has(number):
            continue
        stop = min(n, start + tile)
        block = torch.mm(left[start:stop], right, out=scores[: stop - start])
        if histogram is not None:
            shape, size = (stop - start, n - start), (stop - start) * (n - start)
            places = torch.add(first, block[:, start:n], alpha=BINS_PER_UNIT, out=scaled[:size].view(shape))
            # cast, not floored: a bin below 0 by rounding becomes 0, one above the last is the spare before the trash
            upper = bins[:size].view(shape).copy_(places)
            below = torch.ones(stop - start, stop - start, dtype=torch.bool).tril_()
            upper[:, : stop - start].masked_fill_(below, _TRASH)
            histogram += torch.bincount(upper.view(-1), minlength=_TRASH + 1)
        block[:, n:] = -torch.inf
        block.diagonal(start).fill_(-torch.inf)
        best, columns[start:stop] = top_k(block, k)
        values[start:stop] = best + space.offset
    if histogram is not None:
        share.summed(histogram)
        histogram[_BINS - 1] += histogram[_BINS]
        histogram = histogram[:_BINS]
    return PairScan(histogram, share.summed(values), share.summed(columns))


def pair_cosines(space: Directions) -> Float[Tensor, " pairs"]:
    """Return the cosines of all unordered pairs: [rows (rows − 1) / 2].

    The plain form, for a few thousand rows.
    """
    left, right = _augmented(space)
    first, second = torch.triu_indices(len(space.rows), len(space.rows), 1)
    return (left @ right.T)[first, second] + space.offset


def nearest(
    queries: Float[Tensor, "queries dim"],
    chunks: Iterator[Float[Tensor, "_ dim"]],
    k: int,
    *,
    skip: Int[Tensor, " queries"] | None = None,
    share: Share = ALONE,
) -> tuple[Float[Tensor, "queries k"], Int[Tensor, "queries k"]]:
    """Return the ``k`` rows with the largest inner product with each query, over rows that arrive in chunks.

    ``skip`` is the row of each query itself, which is not returned. Rows are numbered in order of arrival. With fewer
    than ``k`` rows the answer is padded with -inf and -1. With ``share`` each rank looks for a block of the queries,
    and all get the answers to all.
    """
    if share.size > 1:
        return _shared_nearest(queries, chunks, k, skip, share)
    values = queries.new_full((len(queries), k), -torch.inf)
    columns = torch.full((len(queries), k), -1, dtype=torch.int64)
    start = 0
    tile = max(1, _TILE_NUMBERS // max(1, len(queries)))
    for chunk in chunks:
        for part in chunk.split(tile):
            scores = queries @ part.T
            if skip is not None:
                own = (skip >= start) & (skip < start + len(part))
                scores[own.nonzero()[:, 0], skip[own] - start] = -torch.inf
            best, where = top_k(scores, min(k, len(part)))
            merged = torch.cat([values, best], dim=1).topk(k, dim=1)
            columns = torch.cat([columns, where + start], dim=1).gather(1, merged.indices)
            values = merged.values
            start += len(part)
    return values, columns


def _shared_nearest(
    queries: Tensor, chunks: Iterator[Tensor], k: int, skip: Tensor | None, share: Share
) -> tuple[Tensor, Tensor]:
    mine = share.block(len(queries))
    values, columns = queries.new_zeros(len(queries), k), torch.zeros(len(queries), k, dtype=torch.int64)
    if mine.start < mine.stop:
        values[mine], columns[mine] = nearest(queries[mine], chunks, k, skip=None if skip is None else skip[mine])
    return share.summed(values), share.summed(columns)


def _augmented(space: Directions) -> tuple[Tensor, Tensor]:
    one, lift = torch.ones_like(space.lift)[:, None], space.lift[:, None]
    return torch.cat([space.rows, lift, one], dim=1), torch.cat([space.rows, one, lift], dim=1)
