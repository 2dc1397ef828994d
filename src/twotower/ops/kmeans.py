"""k-means with all its restarts in one batch of matrix products."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Clustering(NamedTuple):
    """Hold the best restart.

    ``labels`` is int64 [rows], ``centres`` [clusters, dim], ``inertia`` the sum of squared distances.
    """

    labels: Tensor
    centres: Tensor
    inertia: float


def kmeans(
    rows: Float[Tensor, "rows dim"],
    clusters: int,
    *,
    restarts: int = 10,
    iterations: int = 100,
    tolerance: float = 1e-4,
    generator: torch.Generator | None = None,
) -> Clustering:
    """Run Lloyd's algorithm from k-means++ seeds, ``restarts`` times at once; return the one of least inertia.

    A restart ends when its centres move, in sum of squares, by less than ``tolerance`` times the mean variance of a
    dimension (scikit-learn's rule). A centre that loses all its rows stays where it is.

    Source: Arthur and Vassilvitskii, "k-means++", SODA 2007, seeds drawn by squared distance (one trial a seed).

    Raises:
        ValueError: if there are fewer rows than clusters.
    """
    count, dim = rows.shape
    if not 1 <= clusters <= count:
        raise ValueError(f"clusters must be from 1 to the {count} rows, got {clusters}")
    mean = rows.mean(0)
    rows = rows - mean  # distances from products lose fewer digits about the mean
    square = rows.square().sum(1)
    centres = _seeds(rows, square, clusters, restarts, generator)
    still = tolerance * square.mean().item() / dim
    active = torch.arange(restarts)
    for _ in range(iterations):
        labels = _assign(rows, centres[active])
        moved = _means(rows, labels, centres[active])
        shift = (moved - centres[active]).square().sum((1, 2))
        centres[active] = moved
        active = active[shift > still]
        if not len(active):
            break
    labels = _assign(rows, centres)
    inertia = [_inertia(rows, chosen, label) for chosen, label in zip(centres, labels, strict=True)]
    best = min(range(restarts), key=inertia.__getitem__)
    return Clustering(labels[best].clone(), centres[best] + mean, inertia[best])


def _seeds(rows: Tensor, square: Tensor, clusters: int, restarts: int, generator: torch.Generator | None) -> Tensor:
    chosen = torch.randint(len(rows), (restarts,), generator=generator)
    centres = rows[chosen][:, None]
    nearest = torch.full((len(rows), restarts), torch.inf, dtype=rows.dtype)
    for _ in range(clusters - 1):
        last = centres[:, -1]
        distance = square[:, None] - 2.0 * (rows @ last.T) + last.square().sum(1)
        nearest = torch.minimum(nearest, distance.clamp_(min=0.0))
        total = nearest.cumsum(0, dtype=torch.float64)
        draw = torch.rand(restarts, generator=generator, dtype=torch.float64) * total[-1]
        chosen = torch.searchsorted(total.T.contiguous(), draw[:, None])[:, 0].clamp_(max=len(rows) - 1)
        centres = torch.cat([centres, rows[chosen][:, None]], dim=1)
    return centres


def _inertia(rows: Tensor, centres: Tensor, labels: Tensor) -> float:
    parts = zip(rows.split(65_536), labels.split(65_536), strict=True)
    return sum((part - centres[label]).square().sum(dtype=torch.float64).item() for part, label in parts)


def _assign(rows: Tensor, centres: Tensor) -> Tensor:
    """The nearest centre of each row in each restart: [restarts, rows]."""
    restarts, clusters, dim = centres.shape
    flat = centres.reshape(-1, dim)
    half = flat.square().sum(1, keepdim=True) / 2
    labels = [
        torch.addmm(half, flat, part.T, alpha=-1.0).view(restarts, clusters, -1).min(dim=1).indices
        for part in rows.split(max(1, 4_000_000 // len(flat)))
    ]
    return torch.cat(labels, dim=1)


def _means(rows: Tensor, labels: Tensor, centres: Tensor) -> Tensor:
    restarts, clusters, dim = centres.shape
    total = rows.new_zeros(restarts * clusters, dim)
    count = rows.new_zeros(restarts * clusters)
    step = max(1, 8_000_000 // (restarts * clusters))
    for part, label in zip(rows.split(step), labels.split(step, dim=1), strict=True):
        member = rows.new_zeros(restarts, clusters, len(part)).scatter_(1, label[:, None], 1.0).flatten(0, 1)
        total.addmm_(member, part)
        count += member.sum(1)
    means = total / count.clamp(min=1.0)[:, None]
    return torch.where(count[:, None] > 0, means, centres.reshape(-1, dim)).view_as(centres)
