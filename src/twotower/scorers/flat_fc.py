"""FlatFC: all head similarities through one hidden layer."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class FlatFC(nn.Module):
    """Score by w' · (W3 flatten(S) + b3): the similarities of all head pairs through a layer and a projection.

    Source: FIT (Xiong et al., SIGIR 2025), equation 17. As printed it has no activation between the two, so it is
    linear in S; and its bias is given the length H_u · H_v where only ``hidden`` fits, as here.

    Args:
        user_heads: H_u.
        item_heads: H_v.
        hidden: rows of W3.
    """

    def __init__(self, *, user_heads: int, item_heads: int, hidden: int = 16) -> None:
        super().__init__()
        if min(user_heads, item_heads, hidden) < 1:
            raise ValueError(f"heads and hidden must be at least 1, got {user_heads}, {item_heads}, {hidden}")
        self.layer = nn.Linear(user_heads * item_heads, hidden)
        self.projection = nn.Linear(hidden, 1, bias=False)

    def forward(self, similarity: Float[Tensor, "*rows user_heads item_heads"]) -> Float[Tensor, "*rows"]:
        """Return one score a row."""
        return self.projection(self.layer(similarity.flatten(-2)))[..., 0]
