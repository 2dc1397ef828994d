"""Drift of interests: the difference of each event's vector and the next one's, and back."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor


def unit_variance(vectors: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
    """Scale each vector to a mean square of 1; a zero vector stays zero.

    The noise of a diffusion has variance 1. Item vectors are far smaller when training starts, and would be lost at
    every step.
    """
    return vectors * vectors.square().mean(-1, keepdim=True).add(1e-12).rsqrt()


def drifts(
    vectors: Float[Tensor, "rows length dim"],
    following: Float[Tensor, "rows length dim"],
    mask: Bool[Tensor, "rows length"],
) -> Float[Tensor, "rows length dim"]:
    """Return d_j = x_(j+1) − x_j; zero where the mask is False, since padding drifts nowhere.

    Source: T2Diff, WWW 2025, equations 10 and 11 ("drift preparation").

    Args:
        vectors: x_j.
        following: x_(j+1), the event after each.
        mask: True where both are there.
    """
    return (following - vectors) * mask[:, :, None]


def next_vectors(
    drift: Float[Tensor, "rows length dim"], vectors: Float[Tensor, "rows length dim"]
) -> Float[Tensor, "rows length dim"]:
    """Return d_j + x_j, which is x_(j+1); the paper reads the last real place alone.

    Source: T2Diff, WWW 2025, equation 18 ("drift utilisation").
    """
    return drift + vectors
