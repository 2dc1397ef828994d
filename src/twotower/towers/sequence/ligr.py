"""LiGR: a causal transformer whose residuals are gated, with a gated feed-forward part."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from twotower.ops.dropout import dropout
from twotower.towers.sequence.attention import CausalAttention
from twotower.towers.sequence.base import check_settings
from twotower.towers.sequence.relative_bias import RelativeBias
from twotower.towers.sequence.stack import Stack


class LiGRBlock(CausalAttention):
    """Apply pre-norm attention and SwiGLU; a gate that reads its input scales what each adds, number by number.

    X' = X + Attention(norm X) ⊙ σ(X W₁ + b₁), then X' + SwiGLU(norm X') ⊙ σ(X' W₂ + b₂).
    """

    def __init__(
        self, *, dim: int, heads: int, feed_forward: int, dropout: float, relative: RelativeBias | None
    ) -> None:
        super().__init__(dim=dim, heads=heads, relative=relative)
        self.dropout = dropout
        self.attention_gate = nn.Linear(dim, dim)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.wide = nn.Linear(dim, 2 * feed_forward * dim, bias=False)
        self.narrow = nn.Linear(feed_forward * dim, dim, bias=False)
        self.feed_forward_gate = nn.Linear(dim, dim)

    def forward(
        self, x: Float[Tensor, "users length dim"], times: Int[Tensor, "users length"] | None
    ) -> Float[Tensor, "users length dim"]:
        """Apply the block to every place."""
        return self._rest(x, self.attended(x, times))

    def at_end(
        self,
        x: Float[Tensor, "users length dim"],
        lengths: Int[Tensor, " users"],
        times: Int[Tensor, "users length"] | None,
    ) -> Float[Tensor, "users dim"]:
        """Return the output at each user's last real place, without the work for the others."""
        row, end = torch.arange(x.shape[0], device=x.device), (lengths - 1).clamp(min=0)
        return self._rest(x[row, end], self.attended_at_end(x, end, times))

    def _rest(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + torch.sigmoid(self.attention_gate(x)) * dropout(mixed, self.dropout, self.training)
        opened, through = self.wide(self.feed_forward_norm(x)).chunk(2, dim=-1)
        wide = dropout(F.silu(opened) * through, self.dropout, self.training)
        fed = dropout(self.narrow(wide), self.dropout, self.training)
        return x + torch.sigmoid(self.feed_forward_gate(x)) * fed


class LiGR(Stack):
    """Encode a history by causal self-attention in gated blocks; with ``relative`` also by the age of each event.

    Source: Borisyuk et al., "From features to transformers: redefining ranking for scalable impact", 2025 (LiGR), the
    gated block; with SwiGLU as eSASRec has it (Tikhonovich et al., RecSys 2025). Differences: weights of attention are
    not dropped, positions are counted from the oldest event of the window, and a layer norm stands at the end. The loss
    is chosen by the run (eSASRec's is sampled softmax).

    Args:
        dim: width of events and states.
        length: places of a window.
        layers: blocks.
        heads: of the attention; must divide ``dim``.
        feed_forward: width of the hidden feed-forward layer, in multiples of ``dim``.
        relative: whether attention has the biases of place and time of HSTU.
        dropout: share of numbers set to 0 in training.
    """

    def __init__(
        self,
        *,
        dim: int,
        length: int,
        layers: int = 2,
        heads: int = 2,
        feed_forward: int = 4,
        relative: bool = False,
        dropout: float = 0.2,
    ) -> None:
        check_settings(share=dropout, dim=dim, layers=layers, heads=heads, feed_forward=feed_forward)

        def block() -> LiGRBlock:
            return LiGRBlock(
                dim=dim,
                heads=heads,
                feed_forward=feed_forward,
                dropout=dropout,
                relative=RelativeBias(length=length) if relative else None,
            )

        super().__init__(dim=dim, length=length, layers=layers, block=block, dropout=dropout)
