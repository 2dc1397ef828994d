"""Mixture of two stages' scores: each scaled to mean 0 and deviation 1 within its list, then summed by weight."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from twotower.core.records import TopK
from twotower.models.rank import NO_CANDIDATE


def mix(first: TopK, second: TopK, weight: float, k: int | None = None) -> TopK:
    """Order the candidates of each list by (1 − weight) · first + weight · second, both scaled within the list.

    At weight 0 the order is that of the first stage, at 1 that of the second, scores and all. Equal scores: the lower
    id first.

    Args:
        first: candidates of each row with the first stage's scores; id -1 fills up.
        second: the same candidates, in whatever order, with the second stage's scores.
        weight: of the second stage, in [0, 1].
        k: length of the answer; None: as many as there are.

    Examples:
        >>> first = TopK(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[7, 5, 9]]))
        >>> second = TopK(torch.tensor([[0.9, 0.8, 0.1]]), torch.tensor([[9, 5, 7]]))
        >>> [mix(first, second, weight).ids.tolist() for weight in (0.0, 0.6, 1.0)]
        [[[7, 5, 9]], [[5, 9, 7]], [[9, 5, 7]]]
    """
    if weight == 0.0 or weight == 1.0:
        kept = first if weight == 0.0 else second
        return kept if k is None else TopK(kept.scores[:, :k], kept.ids[:, :k])
    (ids, ours), (_, theirs) = _by_id(first), _by_id(second)
    absent = ids == NO_CANDIDATE
    scores = (1.0 - weight) * _scaled(ours, absent) + weight * _scaled(theirs, absent)
    best, order = scores.masked_fill(absent, -torch.inf).sort(dim=1, descending=True, stable=True)
    width = len(order[0]) if k is None else k
    return TopK(best[:, :width].float(), ids.gather(1, order)[:, :width])


def _by_id(found: TopK) -> tuple[Int[Tensor, "rows k"], Float[Tensor, "rows k"]]:
    ids, order = found.ids.sort(dim=1)
    return ids, found.scores.gather(1, order)


def _scaled(scores: Float[Tensor, "rows k"], absent: Tensor) -> Float[Tensor, "rows k"]:
    values = scores.double().masked_fill(absent, 0.0)
    count = (~absent).sum(1, keepdim=True).clamp(min=1)
    centred = (values - values.sum(1, keepdim=True) / count).masked_fill(absent, 0.0)
    deviation = (centred.square().sum(1, keepdim=True) / count).sqrt()
    return centred / torch.where(deviation > 0, deviation, 1.0)
