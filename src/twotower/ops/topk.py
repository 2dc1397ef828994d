"""Exact top k with one rule for ties, so that answers do not depend on how scores were cut into tiles."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from twotower.core.records import TopK


def top_k(scores: Float[Tensor, "rows columns"], k: int) -> TopK:
    """Return the ``k`` best columns of each row; equal scores: the lower column first.

    A score of -inf means "not allowed": such columns are never returned, and rows with fewer than ``k`` allowed columns
    end in id -1 and score -inf. Scores must not be NaN.

    `torch.topk` promises no order among equal scores, neither inside the list nor at its end. One more column than is
    asked for shows where the end cuts through equal scores; only those rows are chosen again.

    Raises:
        ValueError: if ``k`` is below 1.

    Examples:
        >>> top_k(torch.tensor([[2.0, 3.0, 2.0, 2.0]]), 2).ids
        tensor([[1, 0]])
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    width = scores.shape[1]
    kept = min(k, width)
    values, ids = scores.topk(min(k + 1, width), dim=1)
    has_ties = bool((values[:, 1:] == values[:, :-1]).any())
    if width > k:
        cut = values[:, k - 1]
        tied = ((cut == values[:, k]) & (cut > -torch.inf)).nonzero()[:, 0]
        values, ids = values[:, :k], ids[:, :k]
        if len(tied):
            ids[tied] = _lowest_columns(scores[tied], cut[tied], k)
            values[tied] = scores[tied].gather(1, ids[tied])
    if has_ties:
        values, ids = _in_order(values, ids)
    ids = ids.masked_fill(values == -torch.inf, -1)
    if kept == k:
        return TopK(values, ids)
    pad = (0, k - kept)
    return TopK(torch.nn.functional.pad(values, pad, value=-torch.inf), torch.nn.functional.pad(ids, pad, value=-1))


def merge(left: TopK, right: TopK) -> TopK:
    """Return the best of two answers for the same rows, as long as ``left``; equal scores: the lower id first."""
    values, ids = _in_order(torch.cat([left.scores, right.scores], 1), torch.cat([left.ids, right.ids], 1))
    k = left.ids.shape[1]
    return TopK(values[:, :k], ids[:, :k])


def top_k_of_tiles(tiles: Iterable[tuple[int, Tensor]], k: int) -> TopK:
    """Return the top k over tiles ``(first column, scores [rows, width])``.

    The same as `top_k` over the tiles side by side.

    Raises:
        ValueError: if there is no tile, or ``k`` is below 1.
    """
    best: TopK | None = None
    for start, scores in tiles:
        found = top_k(scores, k)
        if start:
            found = found._replace(ids=torch.where(found.ids < 0, found.ids, found.ids + start))
        best = found if best is None else merge(best, found)
    if best is None:
        raise ValueError("top_k_of_tiles needs at least one tile, got none")
    return best


def _in_order(values: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Best first, equal scores by id: by id, then by score with a sort that keeps the order of equals."""
    ids, order = ids.sort(dim=1)
    values, best = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    return values, ids.gather(1, best)


def _lowest_columns(scores: Tensor, cut: Tensor, k: int) -> Tensor:
    """The columns above the cut and, of those equal to it, the lowest that fill up ``k``: ascending, [rows, k]."""
    above, equal = scores > cut[:, None], scores == cut[:, None]
    room = k - above.sum(dim=1, keepdim=True)
    chosen = above | (equal & (equal.cumsum(dim=1, dtype=torch.int32) <= room))
    return chosen.nonzero()[:, 1].view(len(scores), k)
