"""Decay of similarity from the first neighbour to the twentieth: along a line, or with an elbow."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from twotower.core.seeds import torch_generator

LEVEL = 0.05
_DRAWS = 4_000
_LEAST = 5


class Decay(NamedTuple):
    """Hold for each query ``p_values`` of a straight line [queries] and the rank of the best elbow [queries]."""

    p_values: Tensor
    elbows: Tensor


def decay_test(similarities: Float[Tensor, "queries ranks"]) -> Decay:
    """Test each falling list of similarities: a straight line against two joined pieces that flatten at an elbow.

    The statistic is the share of the line's residual sum of squares that the best elbow removes (a monotone function
    of F). Neighbouring ranks are not independent, so F's table does not hold; the null is simulated instead: gaps
    between ranks that are independent and exponential, which is what a locally uniform density of similarities gives.

    Raises:
        ValueError: if there are fewer than five ranks.
    """
    ranks = similarities.shape[1]
    if ranks < _LEAST:
        raise ValueError(f"a decay test needs at least {_LEAST} ranks, got {ranks}")
    gain, elbows = _elbow_gain(similarities.double())
    null = _null(ranks)
    above = len(null) - torch.searchsorted(null, gain)
    return Decay((above + 1) / (len(null) + 1), elbows)


def decay_figures(similarities: Float[Tensor, "queries ranks"]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return figures for the statistics, and curves to draw: mean, typical query and worst query (the least fall).

    ``decay_shape`` is "elbowed" when more than half of the queries reject the line at the 5 % level.
    """
    curves: dict[str, Any] = {"mean": similarities.double().mean(0).tolist()}
    fall = similarities[:, 0] - similarities[:, -1]
    for name, row in (("worst", int(fall.argmin())), ("typical", int(fall.argsort()[len(fall) // 2]))):
        curves[name] = {"row": row, "similarities": similarities[row].tolist()}
    if similarities.shape[1] < _LEAST or not (fall > 0).any():
        return {"decay_shape": None, "decay_elbowed_share": None, "decay_elbow_rank": None}, curves
    test = decay_test(similarities[fall > 0])
    elbowed = test.p_values < LEVEL
    share = elbowed.double().mean().item()
    rank = test.elbows[elbowed].median().item() if elbowed.any() else None
    return {
        "decay_shape": "elbowed" if share > 0.5 else "linear",
        "decay_elbowed_share": share,
        "decay_elbow_rank": rank,
    }, curves


def _elbow_gain(curves: Tensor) -> tuple[Tensor, Tensor]:
    """Share of the residual of a line that the best elbow removes, 0 where it does not flatten; and its rank from 1."""
    count = curves.shape[1]
    rank = torch.arange(count, dtype=torch.float64)
    line = torch.stack([torch.ones_like(rank), rank], dim=1)
    residual = curves - curves @ torch.linalg.pinv(line).T @ line.T
    squares = residual.square().sum(1)
    best = torch.zeros_like(squares)
    where = torch.zeros(len(curves), dtype=torch.int64)
    for elbow in range(1, count - 2):
        bend = (rank - elbow).clamp(min=0.0)
        bend = bend - line @ (torch.linalg.pinv(line) @ bend)
        slope = residual @ bend
        gain = torch.where(slope > 0, slope.square() / bend.square().sum(), 0.0)
        where = torch.where(gain > best, elbow + 1, where)
        best = torch.maximum(best, gain)
    return torch.where(squares > 0, best / squares.clamp(min=torch.finfo(torch.float64).tiny), 0.0), where


@cache
def _null(ranks: int) -> Tensor:
    generator = torch_generator(0, "decay", ranks)
    gaps = torch.empty(_DRAWS, ranks, dtype=torch.float64).exponential_(generator=generator)
    return _elbow_gain(-gaps.cumsum(1))[0].sort().values
