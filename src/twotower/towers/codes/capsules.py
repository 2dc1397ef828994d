"""Capsules with dynamic routing: a history as several interests, each a sum of the events that agree with it."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from twotower.ops.dropout import dropout


class Capsules(nn.Module):
    """Make K capsules of the events of a history, whose length is below 1, by dynamic routing.

    Every event offers each capsule a vector e_k = W_k event, and divides itself among the capsules by a softmax of
    logits that begin at 0 and grow by the agreement of capsule and offer, a few times over:

        w = softmax_k(b),   z_k = Σ_l w_kl e_kl,   v_k = squash(z_k),   b_kl <- b_kl + ⟨v_k, e_kl⟩

    where squash(z) = |z|² / (1 + |z|²) · z / |z|.

    Source: Sabour et al., NeurIPS 2017, procedure 1, for histories as in ComiRec (Cen et al., KDD 2020), section 3.2,
    which SparCode (Su et al., SIGIR 2023) names among its tokenizers. As in ComiRec, gradients flow through the last
    round alone. Difference: W_k is of the capsule alone, not of the event's place too.

    Args:
        dim: width of events and capsules.
        capsules: K.
        rounds: of the routing.
        dropout: share of the events' numbers set to 0 in training.
    """

    def __init__(self, dim: int, *, capsules: int, rounds: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        if min(dim, capsules, rounds) < 1:
            raise ValueError(f"dim, capsules and rounds must be at least 1, got {dim}, {capsules} and {rounds}")
        self.capsules, self.rounds, self.dropout = capsules, rounds, dropout
        self.offer = nn.Linear(dim, capsules * dim, bias=False)

    def forward(
        self, events: Float[Tensor, "rows length dim"], lengths: Int[Tensor, " rows"]
    ) -> Float[Tensor, "rows capsules dim"]:
        """Return the capsules of each row, from events that are padded at the end."""
        there = torch.arange(events.shape[1], device=events.device) < lengths[:, None]
        offers = self.offer(dropout(events, self.dropout, self.training)).unflatten(2, (self.capsules, -1))
        offers = offers.transpose(1, 2)
        fixed = offers.detach()
        agreement = fixed.new_zeros(fixed.shape[:3])
        for _ in range(self.rounds - 1):
            found = squash(_gathered(agreement, there, fixed))
            agreement = agreement + (fixed @ found[:, :, :, None])[..., 0]
        return squash(_gathered(agreement, there, offers))


def squash(vectors: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
    """Shorten vectors to a length below 1; a zero vector stays one.

    Examples:
        >>> squash(torch.tensor([3.0, 4.0])).norm().item()  # 25 / 26
        0.9615384936332703
    """
    square = vectors.square().sum(-1, keepdim=True)
    return vectors * square.clamp(min=1e-12).sqrt() / (1.0 + square)


def _gathered(agreement: Tensor, there: Tensor, offers: Tensor) -> Tensor:
    weights = agreement.softmax(1) * there[:, None]
    gathered: Tensor = (weights[:, :, None] @ offers)[:, :, 0]
    return gathered
