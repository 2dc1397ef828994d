"""Stochastic self-attention (STOSA): events are Gaussians, attention and scores are Wasserstein distances."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from twotower.ops.dropout import dropout
from twotower.towers.sequence.base import SequenceEncoder, check_settings, check_weights


def positive(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the exponential linear unit of x plus 1, which is above 0: a variance."""
    return F.elu(x) + 1.0


def as_point(mean: Float[Tensor, "*rows half"], variance: Float[Tensor, "*rows half"]) -> Float[Tensor, "*rows dim"]:
    """Return [mean, √variance], where the distance of points is the Wasserstein distance W₂ of the Gaussians.

    W₂² = |μ₁ − μ₂|² + trace(Σ₁ + Σ₂ − 2 (Σ₁^½ Σ₂ Σ₁^½)^½), which for diagonal covariances is |μ₁ − μ₂|² + |√σ₁ − √σ₂|².
    """
    return torch.cat([mean, variance.sqrt()], dim=-1)


class WassersteinBlock(nn.Module):
    """Apply Wasserstein self-attention and feed-forward to means and variances, each with residual and norm after it.

    Weights are softmax(−W₂²(query, key) / √width) over a place and earlier ones; means are averaged by them, and
    variances by their squares, as those of a sum of independent variables are.
    """

    def __init__(self, *, half: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.project_mean = nn.Linear(half, 3 * half)
        self.project_variance = nn.Linear(half, 3 * half)
        self.out_mean = nn.Linear(half, half)
        self.out_variance = nn.Linear(half, half)
        self.mean_norm = nn.LayerNorm(half)
        self.variance_norm = nn.LayerNorm(half)
        wide = feed_forward * half
        self.feed_mean = nn.Sequential(nn.Linear(half, wide), nn.ELU(), nn.Linear(wide, half))
        self.feed_variance = nn.Sequential(nn.Linear(half, wide), nn.ELU(), nn.Linear(wide, half))
        self.fed_mean_norm = nn.LayerNorm(half)
        self.fed_variance_norm = nn.LayerNorm(half)

    def forward(
        self, mean: Float[Tensor, "users length half"], variance: Float[Tensor, "users length half"]
    ) -> tuple[Float[Tensor, "users length half"], Float[Tensor, "users length half"]]:
        """Apply the block to every place."""
        query_mean, key_mean, value_mean = self._split(self.project_mean(mean))
        query_variance, key_variance, value_variance = self._split(positive(self.project_variance(variance)))
        query, key = as_point(query_mean, query_variance), as_point(key_mean, key_variance)
        # −|q − k|² without |q|², which is the same for all keys.
        logits = (2.0 * query @ key.mT - key.square().sum(-1)[..., None, :]) / query_mean.shape[-1] ** 0.5
        length = mean.shape[1]
        later = torch.ones(length, length, dtype=torch.bool, device=mean.device).triu(1)
        weights = logits.masked_fill(later, float("-inf")).softmax(-1)
        mixed_mean = self.out_mean(self._join(weights @ value_mean))
        mixed_variance = self.out_variance(self._join(weights.square() @ value_variance))
        mean = self.mean_norm(mean + dropout(mixed_mean, self.dropout, self.training))
        variance = positive(self.variance_norm(variance + dropout(mixed_variance, self.dropout, self.training)))
        fed_mean = dropout(self.feed_mean(mean), self.dropout, self.training)
        fed_variance = dropout(self.feed_variance(variance), self.dropout, self.training)
        return self.fed_mean_norm(mean + fed_mean), positive(self.fed_variance_norm(variance + fed_variance))

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value, [users, heads, length, width] each."""
        query, key, value = x.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return query, key, value

    def _join(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(2)


class STOSA(SequenceEncoder):
    """Encode a history of Gaussians by stochastic self-attention; a user scores an item by −W₂² of the two Gaussians.

    The first half of an item's vector is its mean, the second half gives its variances (by ELU + 1). Since covariances
    are diagonal, −W₂² is an inner product: of [2 p, −|p|², 1] for the user's point p and [q, 1, −|q|²] for the item's.
    So users and items are vectors of ``dim`` + 2 numbers that any index serves, and all losses apply.

    Source: Fan et al., "Sequential recommendation via stochastic self-attention", WWW 2022, section 3. Differences:
    mean and variances share ``dim`` numbers, where the paper has as many for each; weights of attention are not
    dropped; and the loss is chosen by the run (the paper's is BPR).

    The paper's loss has a second term, which keeps negatives away from positives: [W₂²(user, positive) −
    W₂²(positive, negative)]₊, the mean over places. With ``apart_weight`` it is added to the run's loss; the paper's
    negative is drawn evenly from all items, here it is what follows at the same place of another user of the batch, so
    that often used items are drawn more often. A negative that is the positive itself has no part.

    Args:
        dim: width of events and states; even.
        length: places of a window.
        layers: blocks.
        heads: of the attention; must divide half of ``dim``.
        feed_forward: width of the hidden feed-forward layer, in multiples of half of ``dim``.
        apart_weight: of the second term (its public code: 0.1); 0: none.
        dropout: share of numbers set to 0 in training.
    """

    scores: ClassVar[tuple[str, ...]] = ("dot",)

    def __init__(
        self,
        *,
        dim: int,
        length: int,
        layers: int = 2,
        heads: int = 2,
        feed_forward: int = 4,
        apart_weight: float = 0.0,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        check_settings(share=dropout, dim=dim, layers=layers, heads=heads, feed_forward=feed_forward)
        check_weights(apart_weight=apart_weight)
        if dim % (2 * heads):
            raise ValueError(f"heads must divide dim / 2, which holds the means, got {heads} heads for dim {dim}")
        self.dim = dim
        self.apart_weight = apart_weight
        self.dropout = dropout
        self.positions = nn.Parameter(torch.randn(length, dim) * dim**-0.5)
        self.mean_norm = nn.LayerNorm(dim // 2)
        self.variance_norm = nn.LayerNorm(dim // 2)
        self.blocks = nn.ModuleList(
            WassersteinBlock(half=dim // 2, heads=heads, feed_forward=feed_forward, dropout=dropout)
            for _ in range(layers)
        )

    def forward(
        self,
        events: Float[Tensor, "users length dim"],
        mask: Bool[Tensor, "users length"],
        times: Int[Tensor, "users length"] | None = None,
    ) -> Float[Tensor, "users length dim"]:
        """Return one state a place: its mean, then its variances."""
        mean, variance = (events + self.positions[: events.shape[1]]).chunk(2, dim=-1)
        mean = dropout(self.mean_norm(mean), self.dropout, self.training)
        variance = positive(dropout(self.variance_norm(variance), self.dropout, self.training))
        for block in self.blocks:
            mean, variance = block(mean, variance)
        return torch.cat([mean, variance], dim=-1)

    @property
    def row_by_row(self) -> bool:
        """Return whether there is no second term, whose negatives are other users'."""
        return not self.apart_weight

    @property
    def whole_batch(self) -> bool:
        """Return whether there is a second term."""
        return bool(self.apart_weight)

    def learn(
        self,
        events: Float[Tensor, "users length dim"],
        following: Float[Tensor, "users length dim"],
        mask: Bool[Tensor, "users length"],
        times: Int[Tensor, "users length"] | None = None,
    ) -> tuple[Float[Tensor, "users length dim"], dict[str, Float[Tensor, ""]]]:
        """Return the states, and the second term where it has a weight."""
        states = self(events, mask, times)
        if not self.apart_weight:
            return states, {}
        users = events.shape[0]
        other = int(torch.randint(1, users, ())) if users > 1 else 0  # drawn on the CPU: nothing waits for a GPU
        negative, real = following.roll(other, 0), mask & mask.roll(other, 0)
        real = real & (negative != following).any(-1)
        term = apart(as_point(*states.chunk(2, dim=-1)), self._point(following), self._point(negative), real)
        return states, {"apart": self.apart_weight * term}

    def _point(self, vectors: Tensor) -> Tensor:
        """The Gaussian's point of items as events are read."""
        mean, raw = vectors.chunk(2, dim=-1)
        return as_point(mean, positive(raw))

    def as_user(self, states: Float[Tensor, "*users dim"]) -> Float[Tensor, "*users wide"]:
        """Return [2 p, −|p|², 1] for the Gaussian's point p."""
        point = as_point(*states.chunk(2, dim=-1))
        length = point.square().sum(-1, keepdim=True)
        return torch.cat([2.0 * point, -length, torch.ones_like(length)], dim=-1)

    def as_item(self, vectors: Float[Tensor, "*items dim"]) -> Float[Tensor, "*items wide"]:
        """Return [q, 1, −|q|²] for the Gaussian's point q; vectors are scaled as those of events are."""
        point = self._point(vectors * self.dim**0.5)
        length = point.square().sum(-1, keepdim=True)
        return torch.cat([point, torch.ones_like(length), -length], dim=-1)


def apart(
    user: Float[Tensor, "users length wide"],
    positive: Float[Tensor, "users length wide"],
    negative: Float[Tensor, "users length wide"],
    real: Bool[Tensor, "users length"],
) -> Float[Tensor, ""]:
    """Return the mean over real places of what the positive is farther from the user than from the negative: [·]₊.

    Source: Fan et al., WWW 2022, section 3 (the loss), with squared distances, as its public code takes them.

    Args:
        user: point of each place's state.
        positive: of the item that follows.
        negative: of one that does not.
        real: which places count; with none the term is 0.
    """
    far = (user - positive).square().sum(-1) - (positive - negative).square().sum(-1)
    return (far.clamp(min=0.0) * real).sum() / real.sum().clamp(min=1)
