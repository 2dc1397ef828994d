"""Gaussian diffusion: the forward process that adds noise to vectors, and the reverse one that restores them."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

Predict = Callable[[Tensor, Tensor], Tensor]
"""x_t [rows, …] and t int64 [rows] to what x_0 was."""


class Diffusion(nn.Module):
    """Run Gaussian diffusion in T steps, with a network that predicts x_0.

    Steps are numbered 0 (no noise) to T. With alpha_t = 1 − beta_t and A_t = alpha_1 · … · alpha_t:

        q(x_t | x_0)          = N(√A_t x_0, (1 − A_t) I)
        q(x_(t−1) | x_t, x_0) = N(√A_(t−1) beta_t / (1 − A_t) x_0 + √alpha_t (1 − A_(t−1)) / (1 − A_t) x_t, b_t I)
        b_t                   = (1 − A_(t−1)) / (1 − A_t) beta_t

    Source: Ho et al., "Denoising diffusion probabilistic models", NeurIPS 2020; in Wang et al. (T2Diff), WWW 2025,
    equations 3 to 6, 14 and 17. Differences: equation 3 prints 1 − alpha where 1 − A is meant, and equation 17
    multiplies the noise by the variance b_t where its square root belongs.

    Args:
        betas: beta_1 … beta_T, each in (0, 1).

    Raises:
        ValueError: if the first beta is too small, or nothing of x_0 is left before the last step, in float64.
    """

    kept: Tensor

    def __init__(self, betas: Float[Tensor, " steps"]) -> None:
        super().__init__()
        self.steps = len(betas)
        whole = torch.cat([torch.ones(1, dtype=torch.float64), (1.0 - betas.double()).cumprod(0)])
        if not whole.is_meta:  # as where a model's size is counted before it is built
            _check_kept(whole)
        self.register_buffer("kept", whole, persistent=False)
        """A_0 = 1, …, A_T: the share of x_0's variance that is left; in float64, as it may be tiny."""

    def noised(
        self, x_0: Float[Tensor, "rows *shape"], step: Int[Tensor, " rows"], noise: Float[Tensor, "rows *shape"]
    ) -> Float[Tensor, "rows *shape"]:
        """Return x_t of q(x_t | x_0) in one go, with standard normal ``noise``."""
        kept = self._kept(step, x_0)
        return kept.sqrt().to(x_0.dtype) * x_0 + (1.0 - kept).sqrt().to(x_0.dtype) * noise

    def posterior(
        self, x_t: Float[Tensor, "rows *shape"], x_0: Float[Tensor, "rows *shape"], step: Int[Tensor, " rows"]
    ) -> tuple[Float[Tensor, "rows *shape"], Float[Tensor, "rows *ones"]]:
        """Return mean and variance of q(x_(t−1) | x_t, x_0); at t = 1 they are x_0 and 0."""
        now, before = self._kept(step, x_t), self._kept(step - 1, x_t)
        alpha = now / before
        of_start = (before.sqrt() * (1.0 - alpha) / (1.0 - now)).to(x_t.dtype)
        of_present = (alpha.sqrt() * (1.0 - before) / (1.0 - now)).to(x_t.dtype)
        variance = (1.0 - before) / (1.0 - now) * (1.0 - alpha)
        return of_start * x_0 + of_present * x_t, variance.to(x_t.dtype)

    def jump(
        self, x_t: Tensor, x_0: Tensor, step: int, target: int, *, eta: float = 0.0, noise: Tensor | None = None
    ) -> Tensor:
        """Return x_s for an earlier step s = ``target``, given x_t and x_0, without the steps between.

        With ``eta`` = 0 nothing is drawn (DDIM). With ``eta`` = 1 and s = t − 1 it is a draw of the posterior: its mean
        plus √b_t times the noise.

        Source: Song et al., "Denoising diffusion implicit models", ICLR 2021, equations 12 and 16.
        """
        now, then = self.kept[step], self.kept[target]
        spread = eta * ((1.0 - then) / (1.0 - now) * (1.0 - now / then)).sqrt()
        direction = (x_t - now.sqrt() * x_0) / (1.0 - now).sqrt()
        x_s = then.sqrt() * x_0 + (1.0 - then - spread.square()).clamp(min=0.0).sqrt() * direction
        if noise is not None:
            x_s = x_s + spread * noise
        return x_s.to(x_t.dtype)

    def visited(self, count: int, eta: float = 0.0) -> list[int]:
        """Return the steps that a reverse process of ``count`` passes visits: T first, evenly down to 0.

        Raises:
            ValueError: if there is no such process: of no pass or more than T, or with an ``eta`` outside [0, 1].
        """
        if not 0.0 <= eta <= 1.0:
            raise ValueError(f"eta must be in [0, 1], got {eta}")
        if not 1 <= count <= self.steps:
            raise ValueError(f"restore_steps must be from 1 to noise_steps = {self.steps}, got {count}")
        return [round(self.steps * (count - done) / count) for done in range(count + 1)]

    def reverse(
        self, predict: Predict, noise: Float[Tensor, "draws rows *shape"], *, count: int, eta: float = 0.0
    ) -> Float[Tensor, "rows *shape"]:
        """Restore x_0 from pure noise in ``count`` passes of the network.

        Args:
            predict: the network.
            noise: standard normal draws: the start, and for ``eta`` above 0 one more for each pass but the last.
            count: passes; T of them with ``eta`` = 1 are the process of the paper.
            eta: how much of each pass's noise is drawn anew, from 0 (nothing) to 1.
        """
        path = self.visited(count)
        x = noise[0]
        for draw, (step, target) in enumerate(itertools.pairwise(path), start=1):
            at = torch.full((len(x),), step, dtype=torch.int64, device=x.device)
            fresh = noise[draw] if eta > 0.0 and target > 0 else None
            x = self.jump(x, predict(x, at), step, target, eta=eta, noise=fresh)
        return x

    def _kept(self, step: Tensor, like: Tensor) -> Tensor:
        return self.kept[step].view(-1, *[1] * (like.ndim - 1))


def _check_kept(kept: Tensor) -> None:
    """Refuse A_0 … A_T where a pass of the reverse process would divide 0 by 0."""
    if kept[1] == 1.0:
        raise ValueError("first_beta is so small that it is no noise in float64: give 1e-12 or more")
    if kept[-2] == 0.0:
        gone = int((kept == 0.0).nonzero()[0])
        raise ValueError(
            f"noise_steps = {len(kept) - 1}: in float64 nothing is left of the item from step {gone} on, and no pass "
            "can go back; give fewer noise_steps or a smaller last_beta"
        )
