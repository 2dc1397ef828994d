"""LSS (lightweight similarity scorer): a row-wise and a column-wise layer over the head similarities."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class LSS(nn.Module):
    """Score by a row-wise and a column-wise layer over the similarities S [H_u, H_v] of all head pairs.

    Score = w · flatten(S''), with

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
        """Return one score a row."""
        leading, (user_heads, item_heads) = similarity.shape[:-2], similarity.shape[-2:]
        pairs = similarity.reshape(-1, user_heads, item_heads)
        # With pairs last, both layers are large matrix products in the place of many tiny ones. A further row, which
        # the first layer turns into ones, carries the second layer's bias through its product.
        rows = pairs.new_zeros(user_heads + 1, item_heads, len(pairs))
        rows[:user_heads] = pairs.permute(1, 2, 0)
        weight = torch.cat([self.rows.weight.expand(user_heads, -1, -1), torch.zeros_like(self.rows.weight)[None]])
        bias = torch.cat([self.rows.bias.expand(user_heads, -1), torch.ones_like(self.rows.bias)[None]])
        first = torch.baddbmm(bias[:, :, None], weight, rows).relu_()
        columns = torch.cat([self.columns.weight, self.columns.bias[:, None]], dim=1)
        second = (columns @ first.flatten(1)).relu_()
        return (self.projection.weight[0] @ second.view(-1, len(pairs))).view(leading)
