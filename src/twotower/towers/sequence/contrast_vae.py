"""ContrastVAE: a variational autoencoder over a history, two of whose views must agree."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from twotower.towers.sequence.base import SequenceEncoder, check_settings, check_weights
from twotower.towers.sequence.causal import CausalTransformer

VIEWS = ("variational", "model", "data")


class ContrastVAE(SequenceEncoder):
    """Encode a history as Gaussians, one a place, and decode a draw of them; served by their means, without a draw.

    An encoder gives mean and deviation of a latent vector at every place, and a decoder reads latent vectors: both are
    causal transformers. Each window has two views in training, of which one, drawn by a coin, is decoded, so that both
    are reconstructed equally often. Own losses: the Kullback-Leibler divergence of both views from the standard normal
    distribution, in nats a place and half of the sum of the two, whose weight grows evenly from 0 over
    ``anneal_steps`` steps; and the contrast, by which a window's two latent vectors at its last place find each other
    among those of the batch: a softmax of cosines in both directions.

    Source: Wang et al., "ContrastVAE: contrastive variational autoencoder for sequential recommendation", CIKM 2022,
    section 3 (the two-view evidence bound and its augmentations). Differences: a coin instead of two decodings; mean
    and deviation are linear maps of one encoder's states; "data" leaves events out, and neither crops nor reorders; the
    contrast is of last places by cosine. The loss of the reconstruction is chosen by the run.

    Args:
        dim: width of events, latent vectors and states.
        length: places of a window.
        layers: blocks of the encoder.
        decoder_layers: blocks of the decoder.
        heads: attention heads; must divide ``dim``.
        feed_forward: width of the hidden feed-forward layer, in multiples of ``dim``.
        relative: whether attention has the biases of place and time of HSTU.
        block: "plain", "ligr" or "hstu": the blocks of the causal transformer, see `CausalTransformer`.
        view: how the second view differs from the first: "variational": another draw, whose deviation is scaled by a
            learnt factor; "model": another dropout; "data": a share of events left out, and another dropout.
        left_out: that share.
        kl_weight: of the divergence, once it has grown.
        anneal_steps: training steps until then.
        contrast_weight: of the contrast.
        contrast_temperature: cosines are divided by it.
        dropout: share of numbers set to 0 in training.
    """

    whole_batch: ClassVar[bool] = True
    steps: Tensor

    def __init__(
        self,
        *,
        dim: int,
        length: int,
        layers: int = 2,
        decoder_layers: int = 1,
        heads: int = 2,
        feed_forward: int = 1,
        relative: bool = False,
        block: str = "plain",
        view: str = "variational",
        left_out: float = 0.2,
        kl_weight: float = 0.3,
        anneal_steps: int = 10_000,
        contrast_weight: float = 0.3,
        contrast_temperature: float = 0.5,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        check_settings(
            share=dropout,
            dim=dim,
            length=length,
            layers=layers,
            decoder_layers=decoder_layers,
            heads=heads,
            feed_forward=feed_forward,
            anneal_steps=anneal_steps,
        )
        if view not in VIEWS:
            raise ValueError(f"view must be one of {', '.join(VIEWS)}, got {view!r}")
        if not 0.0 <= left_out < 1.0:
            raise ValueError(f"left_out must be in [0, 1), got {left_out}")
        check_weights(kl_weight=kl_weight, contrast_weight=contrast_weight)
        if not 1e-3 <= contrast_temperature < math.inf:
            raise ValueError(f"contrast_temperature must be finite and at least 0.001, got {contrast_temperature}")
        self.view, self.left_out = view, left_out
        self.kl_weight, self.anneal_steps = kl_weight, anneal_steps
        self.contrast_weight, self.contrast_temperature = contrast_weight, contrast_temperature
        own = {"dim": dim, "length": length, "heads": heads, "feed_forward": feed_forward}

        def transformer(layers: int) -> CausalTransformer:
            return CausalTransformer(layers=layers, relative=relative, block=block, dropout=dropout, **own)

        self.encoder = transformer(layers)
        self.mean = nn.Linear(dim, dim)
        self.log_variance = nn.Linear(dim, dim)
        self.factor = nn.Linear(dim, dim) if view == "variational" else None
        self.decoder = transformer(decoder_layers)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def learn(
        self,
        events: Float[Tensor, "users length dim"],
        following: Float[Tensor, "users length dim"],
        mask: Bool[Tensor, "users length"],
        times: Int[Tensor, "users length"] | None = None,
    ) -> tuple[Float[Tensor, "users length dim"], dict[str, Float[Tensor, ""]]]:
        """Return the states of one view of each window, and divergence and contrast of both views, weighted."""
        hidden = self.encoder(events, mask, times)
        first_mean, first_deviation = self.mean(hidden), self._deviation(hidden)
        if self.factor is not None:
            mean, deviation = first_mean, first_deviation * F.softplus(self.factor(hidden))
        else:
            if self.view == "data":
                events = events * (torch.rand(mask.shape, device=mask.device) >= self.left_out)[:, :, None]
            hidden = self.encoder(events, mask, times)
            mean, deviation = self.mean(hidden), self._deviation(hidden)
        latent = first_mean + first_deviation * torch.randn_like(first_mean)
        other = mean + deviation * torch.randn_like(mean)
        coin = torch.rand(events.shape[0], device=events.device) < 0.5
        states = self.decoder(torch.where(coin[:, None, None], latent, other), mask, times)
        weight = self.kl_weight * (self.steps.to(states.dtype) / self.anneal_steps).clamp(max=1.0)
        if self.training:
            self.steps += 1
        nats = divergence(first_mean, first_deviation) + divergence(mean, deviation)
        last = (mask.sum(1) - 1).clamp(min=0)
        rows = torch.arange(events.shape[0], device=events.device)
        losses = {
            "divergence": weight * (0.5 * nats * mask).sum() / mask.sum().clamp(min=1),
            "contrast": self.contrast_weight
            * contrast(latent[rows, last], other[rows, last], temperature=self.contrast_temperature),
        }
        return states, losses

    def forward(
        self,
        events: Float[Tensor, "users length dim"],
        mask: Bool[Tensor, "users length"],
        times: Int[Tensor, "users length"] | None = None,
    ) -> Float[Tensor, "users length dim"]:
        """Return one state a place: the means, decoded."""
        found: Tensor = self.decoder(self.mean(self.encoder(events, mask, times)), mask, times)
        return found

    def at_end(
        self,
        events: Float[Tensor, "users length dim"],
        lengths: Int[Tensor, " users"],
        times: Int[Tensor, "users length"] | None = None,
    ) -> Float[Tensor, "users dim"]:
        """Return the state at each user's last real place; the decoder's last block works for it alone."""
        return self.decoder.at_end(self.mean(self.encoder(events, None, times)), lengths, times)

    def _deviation(self, hidden: Tensor) -> Tensor:
        return (0.5 * self.log_variance(hidden)).exp()


def divergence(mean: Float[Tensor, "*rows dim"], deviation: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows"]:
    """Return the Kullback-Leibler divergence of N(mean, deviation²) from N(0, 1), summed over numbers, in nats."""
    return 0.5 * (mean.square() + deviation.square() - 1.0 - 2.0 * deviation.log()).sum(-1)


def contrast(
    one: Float[Tensor, "rows dim"], other: Float[Tensor, "rows dim"], *, temperature: float
) -> Float[Tensor, ""]:
    """Return the mean −log softmax of each row's own partner among all rows of the other side, in both directions.

    Source: the InfoNCE loss of van den Oord et al., "Representation learning with contrastive predictive coding", 2018.
    A single row has nothing to be told from, and its loss is 0.
    """
    cosines = F.normalize(one, dim=-1) @ F.normalize(other, dim=-1).T / temperature
    own = torch.arange(one.shape[0], device=one.device)
    return 0.5 * (F.cross_entropy(cosines, own) + F.cross_entropy(cosines.T, own))
