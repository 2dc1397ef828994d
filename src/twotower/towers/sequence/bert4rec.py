"""BERT4Rec: self-attention in both directions, trained to fill in hidden events."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from twotower.ops.dropout import dropout
from twotower.towers.sequence.base import check_heads, check_settings
from twotower.towers.sequence.cloze import ClozeEncoder


class BothWaysBlock(nn.Module):
    """Apply self-attention over all real places and feed-forward, each with a residual and a norm after it."""

    def __init__(self, *, dim: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.project_in = nn.Linear(dim, 3 * dim)
        self.project_out = nn.Linear(dim, dim)
        self.attention_norm = nn.LayerNorm(dim)
        self.wide = nn.Linear(dim, feed_forward * dim)
        self.narrow = nn.Linear(feed_forward * dim, dim)
        self.feed_forward_norm = nn.LayerNorm(dim)

    def forward(
        self, x: Float[Tensor, "users length dim"], mask: Bool[Tensor, "users length"]
    ) -> Float[Tensor, "users length dim"]:
        """Apply the block to every place."""
        users, length, dim = x.shape
        split = self.project_in(x).view(users, length, 3, self.heads, dim // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None])
        mixed = self.project_out(mixed.transpose(1, 2).reshape(users, length, dim))
        x = self.attention_norm(x + dropout(mixed, self.dropout, self.training))
        fed = self.narrow(F.gelu(self.wide(x)))
        return self.feed_forward_norm(x + dropout(fed, self.dropout, self.training))


class BERT4Rec(ClozeEncoder):
    """Encode a history by self-attention that sees what came before and after, and predict hidden items.

    Causality does not hold: it is trained to fill in blanks (see `ClozeEncoder`), of which there are fewer than places,
    so that it wants more epochs than a causal encoder.

    Source: Sun et al., "BERT4Rec: sequential recommendation with bidirectional encoder representations from
    transformer", CIKM 2019, section 3. Differences: items have no bias, so that the score is an inner product; the
    layer before the score has a layer norm, and positions count from the latest event, as in its public code; weights
    of attention are not dropped; what is hidden is drawn anew in every step, where the public code draws ten
    times for all epochs. The loss is chosen by the run (the paper's is full softmax).

    Args:
        dim: width of events and states.
        length: places of a window; one more is there for the blank.
        layers: blocks.
        heads: of the attention; must divide ``dim``.
        feed_forward: width of the hidden feed-forward layer, in multiples of ``dim``.
        masked_share: share of events that are hidden in training (the paper: 0.2 for MovieLens-1M, 0.6 for Beauty).
        end_share: share of windows in which the last event alone is hidden.
        asked: "blank": a blank is appended when asked; "last": the state of the last event is read. See `ClozeEncoder`.
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
        masked_share: float = 0.2,
        end_share: float = 0.1,
        asked: str = "blank",
        dropout: float = 0.2,
    ) -> None:
        check_settings(share=dropout, dim=dim, layers=layers, heads=heads, feed_forward=feed_forward)
        check_heads(dim, heads)
        super().__init__(dim=dim, masked_share=masked_share, end_share=end_share, asked=asked)
        self.dropout = dropout
        self.positions = nn.Parameter(torch.randn(length + 1, dim) * dim**-0.5)
        self.norm = nn.LayerNorm(dim)
        self.blocks = nn.ModuleList(
            BothWaysBlock(dim=dim, heads=heads, feed_forward=feed_forward, dropout=dropout) for _ in range(layers)
        )
        self.project = nn.Linear(dim, dim)
        self.project_norm = nn.LayerNorm(dim)

    def forward(
        self,
        events: Float[Tensor, "users length dim"],
        mask: Bool[Tensor, "users length"],
        times: Int[Tensor, "users length"] | None = None,
    ) -> Float[Tensor, "users length dim"]:
        """Return one state a place, which knows its own event and all others."""
        places = torch.arange(events.shape[1], device=events.device)
        from_end = (mask.sum(1, keepdim=True) - 1 - places).clamp(min=0)
        x = dropout(self.norm(events + self.positions[from_end]), self.dropout, self.training)
        seen = mask | (places == 0)  # a user without events attends to something, so that nothing is divided by 0
        for block in self.blocks:
            x = block(x, seen)
        return self.project_norm(F.gelu(self.project(x)))
