"""Inner product as the head scorer of one head a side."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class OneHead(nn.Module):
    """Reduce a single similarity to itself, as a two-tower model's output layer does.

    Source: FIT (Xiong et al., SIGIR 2025), section 5.4.1, the variant without its scorer.

    Raises:
        ValueError: if a side has more than one head.
    """

    def __init__(self, *, user_heads: int, item_heads: int) -> None:
        super().__init__()
        if (user_heads, item_heads) != (1, 1):
            raise ValueError(f"the dot product has one head a side, got {user_heads} and {item_heads}")

    def forward(self, similarity: Float[Tensor, "*rows 1 1"]) -> Float[Tensor, "*rows"]:
        """Return one score a row."""
        return similarity[..., 0, 0]
