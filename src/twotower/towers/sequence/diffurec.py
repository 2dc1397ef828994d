"""DiffuRec: a transformer that restores the next item from noise, which is laid over the history."""

from __future__ import annotations

import itertools
import math
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from twotower.towers.diffusion.drift import unit_variance
from twotower.towers.diffusion.forward import Diffusion
from twotower.towers.diffusion.schedules import betas
from twotower.towers.sequence.base import SequenceEncoder, check_settings, check_weights
from twotower.towers.sequence.causal import CausalTransformer


class StepVector(nn.Module):
    """Make a vector of a step of the diffusion: sines and cosines of it, through two layers."""

    rates: Tensor

    def __init__(self, *, dim: int) -> None:
        super().__init__()
        self.dim = dim
        half = -(-dim // 2)
        rates = torch.exp(-math.log(10_000.0) * torch.arange(half) / half)
        self.register_buffer("rates", rates, persistent=False)
        self.layers = nn.Sequential(nn.Linear(dim, 4 * dim), nn.SiLU(), nn.Linear(4 * dim, dim))

    def forward(self, step: Int[Tensor, " rows"]) -> Float[Tensor, "rows dim"]:
        """Return one vector a row."""
        angles = step[:, None] * self.rates
        found: Tensor = self.layers(torch.cat([angles.cos(), angles.sin()], dim=1)[:, : self.dim])
        return found


class DiffuRec(SequenceEncoder):
    """Encode a history by a causal transformer over events with a noised vector of the next item added to each.

    The transformer reads e + λ ⊙ (x_t + d_t) at every place: the event, what is left of the next item's vector after t
    steps of noise, and a vector of t. In training x_t is made from the answer; when asked it starts as pure noise, and
    each pass's states are taken for x_0 in the next one. λ is small (the paper: normal with mean and deviation 0.001),
    and must be: what a large λ adds in training is the answer, which is not there when asked.

    Answers are fixed unless ``fixed`` is off: the noise is drawn once from ``noise_seed``, one for each place and the
    same for all users, λ is its mean, and answers of ``draws`` such noises are averaged. Without it the noise is new at
    every call, as in the paper, and so are the answers.

    Source: Li, Sun and Li, "DiffuRec: a diffusion model for sequential recommendation", ACM TOIS 2023, section 4.
    Differences: every place has the noise of its own answer, so that all are trained at once (in the paper a history
    has one answer, whose noise all its events share); the transformer is causal; vectors are brought to unit variance
    before the diffusion, as the states that stand for them later are, and take no gradient through it; few passes
    without fresh noise; steps are drawn evenly.

    Args:
        dim: width of events and states.
        length: places of a window.
        layers: attention blocks.
        heads: attention heads; must divide ``dim``.
        feed_forward: width of the hidden feed-forward layer, in multiples of ``dim``.
        relative: whether attention has the biases of place and time of HSTU.
        block: "plain", "ligr" or "hstu": the blocks of the causal transformer, see `CausalTransformer`.
        noise_share: mean and deviation of λ.
        schedule: of the noise: "exponential", "linear" or "logarithmic", from ``first_beta`` to ``last_beta`` (the
            defaults are those of the paper's truncated linear one for 32 steps).
        noise_steps: T.
        restore_steps: passes when asked; at most T.
        eta: 0: no fresh noise in the reverse process; 1: all of it, as in the paper.
        draws: noises whose answers are averaged.
        fixed: whether the same question has the same answer.
        noise_seed: of the fixed noise.
        reconstruction_weight: of the own loss, the mean square of state minus x_0 (the paper: 0).
        dropout: share of numbers set to 0 in training.
    """

    whole_batch: ClassVar[bool] = False
    noise: Tensor

    def __init__(
        self,
        *,
        dim: int,
        length: int,
        layers: int = 2,
        heads: int = 2,
        feed_forward: int = 1,
        relative: bool = False,
        block: str = "plain",
        noise_share: float = 0.001,
        schedule: str = "linear",
        noise_steps: int = 32,
        first_beta: float = 0.013,
        last_beta: float = 0.635,
        restore_steps: int = 4,
        eta: float = 0.0,
        draws: int = 1,
        fixed: bool = True,
        noise_seed: int = 0,
        reconstruction_weight: float = 0.0,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        check_settings(
            share=dropout, dim=dim, layers=layers, heads=heads, feed_forward=feed_forward, draws=draws, length=length
        )
        check_weights(noise_share=noise_share, reconstruction_weight=reconstruction_weight)
        self.noise_share, self.eta, self.draws, self.fixed = noise_share, eta, draws, fixed
        self.reconstruction_weight = reconstruction_weight
        self.diffusion = Diffusion(betas(schedule, steps=noise_steps, first=first_beta, last=last_beta))
        self.path = self.diffusion.visited(restore_steps, eta)
        self.step_vector = StepVector(dim=dim)
        self.approximator = CausalTransformer(
            dim=dim,
            layers=layers,
            heads=heads,
            length=length,
            dropout=dropout,
            feed_forward=feed_forward,
            relative=relative,
            block=block,
        )
        size = (restore_steps if eta > 0.0 else 1, draws, length, dim) if fixed else (0, draws, length, dim)
        drawn = torch.randn(size, generator=torch.Generator().manual_seed(noise_seed))
        self.register_buffer("noise", drawn, persistent=False)

    def learn(
        self,
        events: Float[Tensor, "users length dim"],
        following: Float[Tensor, "users length dim"],
        mask: Bool[Tensor, "users length"],
        times: Int[Tensor, "users length"] | None = None,
    ) -> tuple[Float[Tensor, "users length dim"], dict[str, Float[Tensor, ""]]]:
        """Return the states of one pass over noised answers, and the reconstruction's error where it has a weight."""
        x_0 = unit_variance(following.detach()) * mask[:, :, None]
        step = torch.randint(1, self.diffusion.steps + 1, (events.shape[0],), device=events.device)
        x_t = self.diffusion.noised(x_0, step, torch.randn_like(x_0))
        share = self.noise_share * (1.0 + torch.randn_like(events))
        states = self.approximator(self._laid_over(events, x_t, step, share), mask, times)
        if not self.reconstruction_weight:
            return states, {}
        real = mask[:, :, None].to(states.dtype)
        error = ((states - x_0).square() * real).sum() / (real.sum() * x_0.shape[-1]).clamp(min=1.0)
        return states, {"reconstruction": self.reconstruction_weight * error}

    def forward(
        self,
        events: Float[Tensor, "users length dim"],
        mask: Bool[Tensor, "users length"],
        times: Int[Tensor, "users length"] | None = None,
    ) -> Float[Tensor, "users length dim"]:
        """Return one state a place: the next item's vector, restored from noise and averaged over draws."""
        times = self._of_all_draws(times)
        found: Tensor = self.approximator(self._before_last(events, times), None, times)
        return found.unflatten(0, (self.draws, -1)).mean(0)

    def at_end(
        self,
        events: Float[Tensor, "users length dim"],
        lengths: Int[Tensor, " users"],
        times: Int[Tensor, "users length"] | None = None,
    ) -> Float[Tensor, "users dim"]:
        """Return the state at each user's last real place; the last block of the last pass works for it alone."""
        times = self._of_all_draws(times)
        found = self.approximator.at_end(self._before_last(events, times), lengths.repeat(self.draws), times)
        return found.unflatten(0, (self.draws, -1)).mean(0)

    def _laid_over(self, events: Tensor, x_t: Tensor, step: Tensor, share: Tensor | float) -> Tensor:
        return events + share * (x_t + self.step_vector(step)[:, None])

    def _of_all_draws(self, times: Tensor | None) -> Tensor | None:
        return None if times is None else times.repeat(self.draws, 1)

    def _before_last(self, events: Tensor, times: Tensor | None) -> Tensor:
        """What the transformer reads in the last pass, for all draws one after the other."""
        users, length, dim = events.shape
        noise = self.noise[:, :, None, :length].to(events.dtype).expand(-1, -1, users, -1, -1)
        if not self.fixed:
            size = (len(self.path) - 1, self.draws, users, length, dim)
            noise = torch.randn(size, dtype=events.dtype, device=events.device)
        noise = noise.flatten(1, 2)
        events, x = events.repeat(self.draws, 1, 1), noise[0]
        for draw, (now, then) in enumerate(itertools.pairwise(self.path[:-1]), start=1):
            x_0 = self.approximator(self._read(events, x, now), None, times)
            x = self.diffusion.jump(x, x_0, now, then, eta=self.eta, noise=noise[draw] if self.eta > 0.0 else None)
        return self._read(events, x, self.path[-2])

    def _read(self, events: Tensor, x_t: Tensor, now: int) -> Tensor:
        step = torch.full((1,), now, dtype=torch.int64, device=events.device)
        return self._laid_over(events, x_t, step, self.noise_share)
