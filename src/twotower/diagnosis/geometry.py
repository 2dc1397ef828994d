"""Geometry of the whole set: lengths, dimensions and directions, without pairs of vectors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from twotower.diagnosis.vectors import UnitRows, Vectors
from twotower.ops.spectrum import (
    Moments,
    dimensions_for,
    effective_dimensions,
    eigenvalues,
    participation_ratio,
    rankme,
    stable_rank,
)

DEAD_SHARE = 1e-4
"""A dimension is dead when its variance is below this share of the mean variance of a dimension."""

LARGEST_NAMES = ("largest_dimension", "largest_dimension_share", "largest_dimension_name")


def dimension_figures(raw: Moments) -> dict[str, Any]:
    """Count effective dimensions on coordinates and on principal axes, and the dimensions that carry nothing.

    Source: George et al., section IV b. Coordinates depend on how the space is rotated; principal axes do not.
    """
    covariance = raw.covariance()
    variances = covariance.diagonal().clamp(min=0.0)
    if not variances.sum() > 1e-24 * raw.second_moment().trace():
        variances = torch.zeros_like(variances)
    principal = eigenvalues(covariance, raw.rows) if variances.any() else variances
    total = principal.sum().item()
    return {
        "effective_dimensions": effective_dimensions(variances),
        "dimensions_for_90_percent": dimensions_for(variances, 0.9),
        "principal_effective_dimensions": effective_dimensions(principal),
        "principal_dimensions_for_90_percent": dimensions_for(principal, 0.9),
        "top_component_share": principal[0].item() / total if total > 0 else None,
        "dead_dimensions": int((variances <= DEAD_SHARE * variances.mean()).sum()),
    }


def largest_dimension(
    matrix: Float[Tensor, "dim dim"], names: Sequence[str] | None = None
) -> dict[str, int | float | str | None]:
    """Return the coordinate that holds most of a moment matrix's trace, from 0, with its share and its name if any.

    Examples:
        >>> largest_dimension(torch.diag(torch.tensor([1.0, 7.0])), ["age", "price"])
        {'largest_dimension': 1, 'largest_dimension_share': 0.875, 'largest_dimension_name': 'price'}
    """
    held = matrix.diagonal().clamp(min=0.0)
    total, place = held.sum().item(), int(held.argmax())
    if not total > 0.0:
        return dict.fromkeys(LARGEST_NAMES)
    return dict(zip(LARGEST_NAMES, (place, held[place].item() / total, names[place] if names else None), strict=True))


def rank_figures(matrix: Float[Tensor, "dim dim"], rows: int) -> dict[str, float | None]:
    """Return participation ratio, RankMe and stable rank of a moment matrix.

    Raw ones are about the origin, centred ones about the mean.
    """
    values = eigenvalues(matrix, rows)
    return {
        "participation_ratio": participation_ratio(values),
        "rankme": rankme(values),
        "stable_rank": stable_rank(values),
    }


def isotropy(chunks: Iterable[Float[Tensor, "_ dim"]], second_moment: Float[Tensor, "dim dim"]) -> float:
    """Return min Z(c) / max Z(c) over the principal axes c and their opposites, Z(c) = Σ exp(c·u): 1 is isotropic.

    Source: Mu and Viswanath, "All-but-the-Top", ICLR 2018, equation 5. Differences: vectors are scaled to length 1, so
    that the figure has no unit; each axis counts in both directions, since the sign of an eigenvector is arbitrary.
    """
    axes = torch.linalg.eigh(second_moment).eigenvectors
    total = torch.zeros(2, len(axes), dtype=torch.float64)
    for chunk in chunks:
        along = (chunk @ axes).exp_()
        total[0] += along.sum(0)
        total[1] += along.reciprocal_().sum(0)
    return (total.min() / total.max()).item()


def norm_figures(norms: Float[Tensor, " rows"]) -> dict[str, Any]:
    """Return mean, deviation and their ratio of lengths; largest over median; squared-length share of the top 1 %."""
    square = (norms / norms.max().clamp(min=torch.finfo(torch.float64).tiny)).square()
    top = square.topk(math.ceil(len(norms) / 100)).values.sum()
    mean, deviation = norms.mean().item(), norms.std(correction=0).item()
    median = norms.quantile(0.5).item() if len(norms) <= 1_000_000 else norms.median().item()
    return {
        "norm_mean": mean,
        "norm_std": deviation,
        "norm_cv": deviation / mean if mean > 0 else None,
        "norm_max_over_median": norms.max().item() / median if median > 0 else None,
        "norm_top_share": (top / square.sum()).item() if mean > 0 else None,
    }


def popularity_figures(rows: Vectors, raw: Moments, popularity: Float[Tensor, " rows"]) -> dict[str, Any]:
    """Return the correlation of length with popularity, and the variance share that popularity explains.

    Rank correlation; the share is that which log(1 + popularity) explains linearly.

    The share is Σ_d cov(x_d, p)² / (var p · Σ_d var x_d): 1 when all that moves is popularity.
    """
    logged = popularity.double().clamp(min=0.0).log1p()
    logged = logged - logged.mean()
    cross, start = torch.zeros(rows.dim, dtype=torch.float64), 0
    for chunk in rows.chunks():
        cross += logged[start : start + len(chunk)] @ (chunk - raw.mean)
        start += len(chunk)
    variance, spread = logged.square().mean(), raw.covariance().trace()
    known = bool(variance > 0 and spread > 0)
    return {
        "norm_popularity_correlation": _rank_correlation(rows.norms, popularity.double()),
        "popularity_variance_share": ((cross / rows.count).square().sum() / (variance * spread)).item()
        if known
        else None,
    }


def alignment(unit: UnitRows, pairs: Tensor) -> float:
    """Return the mean squared distance of the unit vectors of positive pairs: int64 [pairs, 2] of row numbers.

    Source: Wang and Isola, ICML 2020, equation 4 with α = 2.
    """
    first, second = unit.take(pairs[:, 0]), unit.take(pairs[:, 1])
    return (first - second).square().sum(1).mean().item()


def _rank_correlation(first: Tensor, second: Tensor) -> float | None:
    """Spearman's correlation, ties sharing their mean rank; None when one side is constant."""
    a, b = (_ranks(values) for values in (first, second))
    a, b = a - a.mean(), b - b.mean()
    scale = a.norm() * b.norm()
    return (a @ b / scale).item() if scale > 0 else None


def _ranks(values: Tensor) -> Tensor:
    _, places, counts = values.unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1) / 2).double()[places]
