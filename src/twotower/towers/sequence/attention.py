"""Causal self-attention with several heads: the part that blocks of transformers share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from twotower.towers.sequence.base import check_heads
from twotower.towers.sequence.relative_bias import RelativeBias


class CausalAttention(nn.Module):
    """Attend to the places up to each one, by scaled dot products; a block is made by inheriting from it.

    Histories are padded at the end, so that the causal mask alone keeps padding away from every real place.

    Args:
        dim: width of events.
        heads: must divide ``dim``.
        relative: what is added to attention for the distance of two events in places and in time; None: nothing.
        attention_dropout: share of weights set to 0 in training; without, fused kernels apply.
    """

    def __init__(
        self, *, dim: int, heads: int, relative: RelativeBias | None = None, attention_dropout: float = 0.0
    ) -> None:
        super().__init__()
        check_heads(dim, heads)
        self.heads, self.attention_dropout = heads, attention_dropout
        self.relative = relative
        self.attention_norm = nn.LayerNorm(dim)
        self.project_in = nn.Linear(dim, 3 * dim)
        self.project_out = nn.Linear(dim, dim)

    def attended(
        self, x: Float[Tensor, "users length dim"], times: Int[Tensor, "users length"] | None
    ) -> Float[Tensor, "users length dim"]:
        """Return what attention finds at every place."""
        users, length, dim = x.shape
        split = self.project_in(self.attention_norm(x)).view(users, length, 3, self.heads, -1)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        dropped = self.attention_dropout if self.training else 0.0
        if self.relative is None:
            mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True, dropout_p=dropped)
        else:
            later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
            bias = self.relative(length, times).masked_fill(later, float("-inf")).to(query.dtype)
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropped)
        found: Tensor = self.project_out(mixed.transpose(1, 2).reshape(users, length, dim))
        return found

    def attended_at_end(
        self,
        x: Float[Tensor, "users length dim"],
        end: Int[Tensor, " users"],
        times: Int[Tensor, "users length"] | None,
    ) -> Float[Tensor, "users dim"]:
        """Return what attention finds at each user's place ``end`` alone, without the work for the others."""
        users, length, dim = x.shape
        normed = self.attention_norm(x)
        weight, bias = self.project_in.weight, self.project_in.bias
        key, value = (
            F.linear(normed, weight[dim:], bias[dim:]).view(users, length, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        )
        at_end = normed[torch.arange(users, device=x.device), end]
        query = F.linear(at_end, weight[:dim], bias[:dim]).view(users, self.heads, 1, -1)
        seen = (torch.arange(length, device=x.device) <= end[:, None])[:, None, None]
        if self.relative is not None:
            seen = self.relative.at_end(end, length, times).masked_fill(~seen, float("-inf")).to(query.dtype)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        found: Tensor = self.project_out(mixed.reshape(users, dim))
        return found
