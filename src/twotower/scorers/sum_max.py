"""ColBERT's MaxSim: for each user head the maximum over item heads, summed."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class SumMax(nn.Module):
    """Score by the sum over user heads of the largest similarity with an item head. No parameters.

    Source: FIT (Xiong et al., SIGIR 2025), equation 10, after ColBERT (Khattab and Zaharia, SIGIR 2020).
    """

    def forward(self, similarity: Float[Tensor, "*rows user_heads item_heads"]) -> Float[Tensor, "*rows"]:
        """Return one score a row."""
        return similarity.amax(dim=-1).sum(dim=-1)
