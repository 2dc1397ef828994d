"""Baselines of a diagnosis: each dimension shuffled on its own, and random vectors."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from twotower.core.seeds import torch_generator
from twotower.ops.cosines import directions, top_k
from twotower.ops.spectrum import eigenvalues, moments, participation_ratio, rankme

NAMES = ("mean_cosine", "direction_rank", "direction_participation", "neighbour_gain")
SAMPLE = 2_048
QUERIES = 512
NEIGHBOURS = 10
_LEAST_ROWS = 3 * NEIGHBOURS


def compare(rows: Float[Tensor, "rows dim"], seed: int) -> dict[str, dict[str, Any]]:
    """Return figures of a sample of ``rows`` and of its two baselines, each about its own mean.

    "permuted" shuffles each dimension over the rows: every coordinate keeps its values, every relation between
    coordinates is gone. "random" is Gaussian of the same shape. Each entry holds ``mean_cosine`` (about the origin),
    ``direction_rank`` and ``direction_participation`` (RankMe and participation ratio of the centred unit vectors) and
    ``neighbour_gain`` (by how much the ten nearest are closer than the average pair, in cosine); None if undefined.
    """
    generator = torch_generator(seed, "baselines")
    shuffled = torch.stack(
        [column[torch.randperm(len(rows), generator=generator)] for column in rows.T.contiguous()], dim=1
    )
    return {
        "sample": _figures(rows),
        "permuted": _figures(shuffled),
        "random": _figures(torch.randn(rows.shape, generator=generator, dtype=rows.dtype)),
    }


def _figures(rows: Tensor) -> dict[str, Any]:
    lengths = torch.linalg.vector_norm(rows, dim=1)
    unit = rows[lengths > 0] / lengths[lengths > 0, None]
    centred = rows - rows.mean(0)
    lengths = torch.linalg.vector_norm(centred, dim=1)
    kept = lengths > 1e-12 * rows.square().sum(1).mean().sqrt()
    figures: dict[str, Any] = dict.fromkeys(NAMES)
    if len(unit) > 1:
        figures["mean_cosine"] = (unit.sum(0).square().sum().item() / len(unit) - 1.0) / (len(unit) - 1)
    if int(kept.sum()) < 2:
        return figures
    around = centred[kept] / lengths[kept, None]
    axes = eigenvalues(moments([around]).covariance(), len(around))
    figures |= {"direction_rank": rankme(axes), "direction_participation": participation_ratio(axes)}
    if len(around) >= _LEAST_ROWS:
        space = directions(around, dtype=torch.float32)
        queries = space.rows[:QUERIES]
        scores = queries @ space.rows.T + space.lift
        scores.diagonal().fill_(-torch.inf)
        best, _ = top_k(scores, NEIGHBOURS)
        nearest = best + space.lift[: len(queries), None] + space.offset
        mean = space.offset - space.mean_square / (len(around) - 1)
        figures["neighbour_gain"] = nearest.double().mean().item() - mean
    return figures
