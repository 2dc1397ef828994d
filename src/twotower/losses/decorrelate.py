"""Regularisers that keep vectors apart: uniformity, decorrelation, centring. Lower is further apart."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from twotower.core.errors import InputError


def uniformity(vectors: Float[Tensor, "rows dim"], *, scale: float = 2.0) -> Float[Tensor, ""]:
    """Return the log of the mean over pairs of different rows of exp(−t ‖u_i − u_j‖²), u = x / ‖x‖.

    0 when all rows point the same way; about −2t in many dimensions when they are spread evenly. Zero rows have no
    direction and count in no pair.

    Source: Wang and Isola, ICML 2020, equation 5 with t = 2. Difference: none.

    Args:
        vectors: at least two rows that are not zero.
        scale: t above, positive; without unit.

    Raises:
        InputError: if fewer than two rows have a direction.
    """
    unit = _directions(vectors)
    count = len(unit)
    exponents = 2.0 * scale * (unit @ unit.T - 1.0)
    itself = torch.eye(count, dtype=torch.bool, device=unit.device)
    return exponents.masked_fill(itself, -torch.inf).flatten().logsumexp(0) - math.log(count * (count - 1))


def decorrelation(vectors: Float[Tensor, "rows dim"]) -> Float[Tensor, ""]:
    """Return Σ_{a≠b} r_ab² / dim, r_ab the correlation over rows of dimensions a and b.

    0 when no dimension tells of another, dim − 1 when all rows lie on one line. A dimension that does not vary has
    correlation 0 with all others: this term alone does not see constant vectors.

    Source: Bardes et al., "VICReg", ICLR 2022, equations 3 and 4. Difference: the correlation stands for the
    covariance, as in Zbontar et al. (Barlow Twins), so that vectors of any length meet the same weight.

    Raises:
        InputError: if there are fewer than two rows.
    """
    if len(vectors) < 2:
        raise InputError(f"decorrelation needs at least two vectors, got {len(vectors)}")
    values = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    centred = values - values.mean(0)
    variance = centred.square().mean(0)
    # what rounding leaves of a constant dimension is no variance
    floor = (torch.finfo(values.dtype).eps * values.detach().abs().amax(0)).square().clamp(min=1e-30)
    scaled = centred * torch.where(variance > floor, variance.clamp(min=1e-30).rsqrt(), 0.0)
    correlation = scaled.T @ scaled / len(values)
    return (correlation.square().sum() - correlation.diagonal().square().sum()) / values.shape[1]


def centring(vectors: Float[Tensor, "rows dim"]) -> Float[Tensor, ""]:
    """Return ‖mean of x / ‖x‖‖²: the mean cosine of all pairs, each row with itself among them.

    1 when all rows point the same way, 0 when their directions cancel out. Zero rows are left out.

    Source: ours; it is the first figure of George et al., "Diagnosing Embedding Space Collapse", section IV a, as a
    penalty.

    Raises:
        InputError: if fewer than two rows have a direction.
    """
    return _directions(vectors).mean(0).square().sum()


def _directions(vectors: Tensor) -> Tensor:
    values = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    lengths = torch.linalg.vector_norm(values, dim=1)
    kept = lengths > 0
    if int(kept.sum()) < 2:
        raise InputError(f"at least two vectors must have a direction, got {int(kept.sum())} of {len(vectors)}")
    return values[kept] / lengths[kept, None]
