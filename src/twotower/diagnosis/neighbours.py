"""Neighbourhoods: duplicates, intrinsic dimension, and whether a little noise changes the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from twotower.core.seeds import numpy_generator, torch_generator
from twotower.diagnosis.vectors import Vectors
from twotower.ops.cosines import nearest
from twotower.ops.share import ALONE, Share

NOISE = 0.05
"""Length of the noise as a share of the vector's, about what 4-bit storage adds."""
STABILITY_NEIGHBOURS = 10
STABILITY_QUERIES = 512
NEAR_DUPLICATE = 1e-3
"""Two directions closer than this share of the root-mean-square distance to the mean are near duplicates."""


def duplicates(rows: Vectors) -> int:
    """Return how many vectors repeat an earlier one, value for value (0.0 equals -0.0).

    Rows are compared by a 64-bit sum of their bits under random odd weights: by chance it errs in one of millions of
    sets of a million vectors.
    """
    draw = numpy_generator(0, "duplicates")
    weights = draw.integers(0, 2**63, size=rows.dim, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    sums = []
    for chunk in rows.chunks():
        bits = (chunk + 0.0).numpy().view(np.uint64)
        # the low bits of a float32 stored in float64 are all zero: fold the high half in before weighing
        bits = (bits ^ (bits >> np.uint64(29))) * np.uint64(0x9E3779B97F4A7C15)
        bits ^= bits >> np.uint64(32)
        sums.append((bits * weights).sum(axis=1, dtype=np.uint64))
    return rows.count - len(np.unique(np.concatenate(sums)))


def chord_distances(
    take: Callable[[Tensor], Tensor], queries: Int[Tensor, " queries"], neighbours: Int[Tensor, "queries k"]
) -> Float[Tensor, "queries k"]:
    """Return the distances between unit vectors and their neighbours, from differences in float64.

    No digits cancel.
    """
    k = neighbours.shape[1]
    parts = []
    for rows, others in zip(queries.split(4_096), neighbours.split(4_096), strict=True):
        gap = take(others.reshape(-1)).view(len(rows), k, -1) - take(rows)[:, None]
        parts.append(torch.linalg.vector_norm(gap, dim=2))
    return torch.cat(parts).sort(dim=1).values


def intrinsic_dimension(distances: Float[Tensor, "queries 2"], floor: float) -> float | None:
    """Return TwoNN: 1 / mean ln(r₂ / r₁) over queries with r₁ above ``floor``.

    None when there are fewer than ten.

    Source: Facco et al., Scientific Reports 2017, equation 3, by maximum likelihood and without discarding the largest
    ratios. Distances are chords between unit vectors.
    """
    first, second = distances[:, 0], distances[:, 1]
    apart = first > floor
    mean = (second[apart] / first[apart]).log().sum().item()
    return int(apart.sum()) / mean if int(apart.sum()) >= 10 and mean > 0 else None


def near_duplicate_share(distances: Float[Tensor, "queries k"], spread: float) -> float:
    """Return the share of queries whose nearest neighbour is within `NEAR_DUPLICATE` of the directions' spread."""
    return (distances[:, 0] <= NEAR_DUPLICATE * spread).double().mean().item()


def stability(
    queries: Float[Tensor, "queries dim"],
    rows: Int[Tensor, " queries"],
    neighbours: Int[Tensor, "queries k"],
    chunks: Iterator[Float[Tensor, "_ dim"]],
    seed: int,
    *,
    share: Share = ALONE,
) -> float:
    """Return the share of each query's nearest that stay among its nearest under noise.

    Gaussian noise of length `NOISE` is added to the query.

    ``queries`` are unit vectors; ``chunks`` hold all rows, up to one shift that they share (it moves no rank). With
    ``share`` the search is shared out over ranks.
    """
    generator = torch_generator(seed, "noise")
    noise = torch.randn(queries.shape, generator=generator, dtype=torch.float64).to(queries.dtype)
    moved = queries + NOISE * noise / torch.linalg.vector_norm(noise, dim=1, keepdim=True)
    _, after = nearest(moved, chunks, neighbours.shape[1], skip=rows, share=share)
    kept = (after[:, :, None] == neighbours[:, None, :]).any(2)
    return kept.double().mean().item()
