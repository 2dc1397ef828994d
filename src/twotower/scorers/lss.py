"""The lightweight similarity scorer: a row-wise and a column-wise layer over the head similarities."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class LSS(nn.Module):
    """Score = w · flatten(S''), from the similarities S [H_u, H_v] of all head pairs:

        S'[i, :] = relu(W1 S[i, :] + b1)     every row:    [H_u, hidden]
        S''[:, j] = relu(W2 S'[:, j] + b2)   every column: [hidden, hidden]

    Source: FIT (Xiong et al., SIGIR 2025), equations 13 to 16, after LITE (Ji et al., 2024). The printed shapes fit
    only when H_u = H_v = hidden; here W1 is [hidden, H_v] and W2 is [hidden, H_u], with biases of length hidden.

    Args:
        user_heads: H_u.
        item_heads: H_v.
        hidden: width of both layers; the paper takes the width of a feature embedding, 16.
    """

    def __init__(self, *, user_heads: int, item_heads: int, hidden: int = 16) -> None:
        super().__init__()
        if min(user_heads, item_heads, hidden) < 1:
            raise ValueError(f"heads and hidden must be at least 1, got {user_heads}, {item_heads}, {hidden}")
        self.rows = nn.Linear(item_heads, hidden)
        self.columns = nn.Linear(user_heads, hidden)
        self.projection = nn.Linear(hidden * hidden, 1, bias=False)

    def forward(self, similarity: Float[Tensor, "*rows user_heads item_heads"]) -> Float[Tensor, "*rows"]:
        """One score a row."""
        leading = similarity.shape[:-2]
        pairs = similarity.flatten(0, -3) if leading else similarity[None]
        # With pairs last, both layers are a few large matrix products in the place of many tiny ones.
        heads = pairs.permute(1, 2, 0)
        row_weight = self.rows.weight.expand(len(heads), -1, -1)
        across_rows = torch.baddbmm(self.rows.bias[:, None], row_weight, heads).relu()  # [H_u, hidden, pairs]
        by_column = across_rows.transpose(0, 1)
        column_weight = self.columns.weight.expand(len(by_column), -1, -1)
        # S'' comes out transposed, which only names the weights of the projection in another order.
        across_columns = torch.baddbmm(self.columns.bias[:, None], column_weight, by_column).relu()
        return (self.projection.weight[0] @ across_columns.flatten(0, 1)).view(leading)
