"""Cosine of two vectors, as the inner product of unit vectors."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from twotower.scorers.dot import Dot


class Cosine(Dot):
    """Score by the cosine, in [-1, 1]. States are stored at length 1, so that a vector index can serve them."""

    def prepare(self, vectors: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
        """Return the vectors at length 1; a zero vector stays zero."""
        return F.normalize(vectors, dim=-1)
