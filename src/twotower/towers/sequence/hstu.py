"""HSTU (hierarchical sequential transduction units): gated attention without a softmax, with position and time bias."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from twotower.ops.dropout import dropout
from twotower.towers.sequence.base import check_heads, check_settings
from twotower.towers.sequence.relative_bias import RelativeBias
from twotower.towers.sequence.stack import Stack


class HSTUBlock(nn.Module):
    """Apply pointwise projection, spatial aggregation and pointwise transformation, with a residual around all."""

    def __init__(self, *, dim: int, heads: int, length: int, buckets: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.length = length
        self.dropout = dropout
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.project_in = nn.Linear(dim, 4 * dim)
        self.bias = RelativeBias(length=length, buckets=buckets)
        self.mixed_norm = nn.LayerNorm(dim, eps=1e-6)
        self.project_out = nn.Linear(dim, dim)

    def forward(
        self, x: Float[Tensor, "users length dim"], times: Int[Tensor, "users length"] | None
    ) -> Float[Tensor, "users length dim"]:
        """Apply the block to every place."""
        users, length, dim = x.shape
        gate, rest = F.silu(self.project_in(self.norm(x))).split([dim, 3 * dim], dim=-1)
        value, query, key = rest.view(users, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        weights = F.silu(query @ key.mT + self.bias(length, times)) / self.length
        mixed = (weights.tril() @ value).transpose(1, 2).reshape(users, length, dim)
        return self._rest(x, gate, mixed)

    def at_end(
        self,
        x: Float[Tensor, "users length dim"],
        lengths: Int[Tensor, " users"],
        times: Int[Tensor, "users length"] | None,
    ) -> Float[Tensor, "users dim"]:
        """Return the output at each user's last real place, without gates, queries and weights of the others."""
        users, length, dim = x.shape
        end = (lengths - 1).clamp(min=0)
        row = torch.arange(users, device=x.device)
        normed = self.norm(x)
        weight, bias = self.project_in.weight, self.project_in.bias
        # The rows of the projection are gate, value, query and key.
        gate, query = F.silu(F.linear(normed[row, end], weight, bias)).split(dim, dim=-1)[::2]
        value = F.silu(F.linear(normed, weight[dim : 2 * dim], bias[dim : 2 * dim]))
        key = F.silu(F.linear(normed, weight[3 * dim :], bias[3 * dim :]))
        value, key = (part.view(users, length, self.heads, -1).transpose(1, 2) for part in (value, key))
        query = query.view(users, self.heads, 1, -1)
        seen = torch.arange(length, device=x.device) <= end[:, None]
        weights = F.silu(query @ key.mT + self.bias.at_end(end, length, times)) / self.length
        return self._rest(x[row, end], gate, ((weights * seen[:, None, None]) @ value).reshape(users, dim))

    def _rest(self, x: Tensor, gate: Tensor, mixed: Tensor) -> Tensor:
        added: Tensor = self.project_out(dropout(gate * self.mixed_norm(mixed), self.dropout, self.training))
        return x + added


class HSTU(Stack):
    """Encode a history by hierarchical sequential transduction units: pointwise aggregated attention.

    Without a softmax, the strength of attention is kept.

    U, V, Q, K = SiLU(f1(norm X)); A V = SiLU(Q Kᵀ + rab) V / n; Y = X + f2(norm(A V) ⊙ U). The weights of a place do
    not add up to 1. Where no times are given, the bias is that of places alone.

    Source: Zhai et al., "Actions speak louder than words", ICML 2024, section 3.2, equations 1 to 3. Differences: items
    alone without action tokens and without stochastic length; learnt positions are added to the events, and n is the
    window's length (both as in its public code); a layer norm in the end instead of length 1; see `RelativeBias` for
    the time. The loss is chosen by the run (the paper's is sampled softmax).

    Args:
        dim: width of events and states.
        length: places of a window.
        layers: blocks.
        heads: of the attention; must divide ``dim``.
        time_buckets: of the time between two events; 0: places alone.
        dropout: share of numbers set to 0 in training.
    """

    def __init__(
        self,
        *,
        dim: int,
        length: int,
        layers: int = 2,
        heads: int = 2,
        time_buckets: int = 64,
        dropout: float = 0.2,
    ) -> None:
        check_settings(share=dropout, dim=dim, layers=layers, heads=heads)
        check_heads(dim, heads)

        def block() -> HSTUBlock:
            return HSTUBlock(dim=dim, heads=heads, length=length, buckets=time_buckets, dropout=dropout)

        super().__init__(dim=dim, length=length, layers=layers, block=block, dropout=dropout)
