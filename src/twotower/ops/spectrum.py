"""Spectrum of a set of vectors: moments in one pass over chunks, and measures of rank."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Moments(NamedTuple):
    """Hold count, sum and second moment about ``pivot``, in float64.

    The pivot is near the mean, so that a narrow cone far from the origin keeps its digits.
    """

    rows: int
    pivot: Tensor
    total: Tensor
    outer: Tensor

    @property
    def mean(self) -> Tensor:
        """Return the mean vector: [dim]."""
        return self.pivot + self.total / self.rows

    def covariance(self) -> Tensor:
        """Return the covariance about the mean, divided by the count: [dim, dim]."""
        shift = self.total / self.rows
        return self.outer / self.rows - torch.outer(shift, shift)

    def second_moment(self) -> Tensor:
        """Return the mean of x xᵀ about the origin: [dim, dim]."""
        mean = self.mean
        return self.covariance() + torch.outer(mean, mean)


def moments(chunks: Iterable[Float[Tensor, "_ dim"]]) -> Moments:
    """Return the moments of all rows of ``chunks``, which are read once.

    Raises:
        ValueError: if there is no row.
    """
    found: Moments | None = None
    for chunk in chunks:
        if not len(chunk):
            continue
        values = chunk.double()
        pivot = values.mean(0) if found is None else found.pivot
        values = values - pivot
        part = Moments(len(values), pivot, values.sum(0), values.T @ values)
        found = (
            part
            if found is None
            else Moments(found.rows + part.rows, pivot, found.total + part.total, found.outer + part.outer)
        )
    if found is None:
        raise ValueError("moments need at least one row, got none")
    return found


def eigenvalues(matrix: Float[Tensor, "dim dim"], rows: int) -> Float[Tensor, " dim"]:
    """Return the eigenvalues of a moment matrix of ``rows`` rows, largest first.

    Those that are only rounding are set to 0.
    """
    values = torch.linalg.eigvalsh(matrix.double()).flip(0).clamp(min=0.0)
    floor = torch.finfo(torch.float64).eps * max(rows, len(values)) * values[0]
    return values.masked_fill(values <= floor, 0.0)


def participation_ratio(values: Float[Tensor, " dim"]) -> float | None:
    """Return (Σλ)² / Σλ²: the number of equal eigenvalues that would spread as much.

    None for an all-zero spectrum.

    Examples:
        >>> participation_ratio(torch.tensor([2.0, 2.0, 0.0]))
        2.0
    """
    square = values.square().sum().item()
    return values.sum().item() ** 2 / square if square > 0.0 else None


def rankme(values: Float[Tensor, " dim"]) -> float | None:
    """Return exp of the entropy (nats) of the singular values √λ scaled to sum to 1.

    None for an all-zero spectrum.

    Source: Garrido et al., "RankMe", ICML 2023, equation 1 (Roy and Vetterli's effective rank, 2007). Difference: no
    epsilon is added to the shares; a zero singular value counts nothing.

    Examples:
        >>> round(rankme(torch.ones(4)), 6)
        4.0
    """
    singular = values.sqrt()
    total = singular.sum()
    if not total > 0.0:
        return None
    return math.exp(torch.special.entr(singular / total).sum().item())


def stable_rank(values: Float[Tensor, " dim"]) -> float | None:
    """Return Σλ / max λ: squared Frobenius norm over squared spectral norm. None for an all-zero spectrum.

    Examples:
        >>> stable_rank(torch.tensor([4.0, 2.0, 2.0]))
        2.0
    """
    largest = values.max().item()
    return values.sum().item() / largest if largest > 0.0 else None


def dimensions_for(variances: Float[Tensor, " dim"], share: float) -> int | None:
    """Return how many of the largest ``variances`` hold ``share`` of their sum. None when all are zero.

    Examples:
        >>> dimensions_for(torch.tensor([1.0, 6.0, 3.0]), 0.9)
        2
    """
    total = variances.sum().item()
    if total <= 0.0:
        return None
    held = variances.double().sort(descending=True).values.cumsum(0) / total
    # 1e-12: a share that is met exactly must not be missed by the rounding of the sum
    return int((held < share - 1e-12).sum()) + 1


def effective_dimensions(variances: Float[Tensor, " dim"], share: float = 0.01) -> int:
    """Return how many variances exceed ``share`` of the largest; 0 when all are zero.

    Examples:
        >>> effective_dimensions(torch.tensor([1.0, 0.5, 0.005]))
        2
    """
    return int((variances > share * variances.max()).sum())
