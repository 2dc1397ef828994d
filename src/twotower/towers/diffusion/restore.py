"""Vector of the item that follows each event of a history: restored from noise, or predicted."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from twotower.towers.diffusion.drift import drifts, next_vectors, unit_variance
from twotower.towers.diffusion.forward import Diffusion
from twotower.towers.diffusion.schedules import betas
from twotower.towers.diffusion.unet import UNet

FORMS = ("predicted", "as_served", "printed")


class NextItem(nn.Module):
    """Restore the next item's vector at every place by a causal U-Net trained on its own squared error.

    No gradient goes through: neither from its error to the vectors that it is given, nor from what reads its answers
    to the U-Net. The error is the mean of (ẑ_0 − z_0)² over all numbers of real places.

    Source: Wang et al. (T2Diff), WWW 2025, sections 4.2 and 4.4, algorithms 1 and 2. The paper names a KL divergence
    and prints a difference of noises; as its network predicts z_0, both come to this squared error. Differences: the
    causal U-Net; few passes without fresh noise unless asked; fixed noise when asked, see ``seed``.

    Args:
        dim: width of vectors.
        length: places of a window, at most.
        form: "printed": in training what one pass makes of the *true* drift plus noise, when asked what the reverse
            process makes of pure noise. "as_served": the latter in training too; the U-Net still learns from noised
            drifts. "predicted": one pass without any noise (zeros in its place, step 0), alike in both.
        drift: whether z_0 is the drift to the next vector (as in the paper), or that vector itself.
        normalise: bring vectors to unit variance first.
        schedule: of the noise, with its ends ``first_beta`` and ``last_beta``.
        noise_steps: T.
        restore_steps: passes of the reverse process.
        eta: share of fresh noise in it: 0 none; 1 with ``restore_steps`` = T is the paper's.
        channels: of the U-Net, as are ``depth`` and ``kernel``.
        seed: of the noise that asking starts from: the same for all users, another for each place, so that an answer
            depends on neither the batch nor the time of asking.
    """

    noise: Tensor

    def __init__(
        self,
        *,
        dim: int,
        length: int,
        form: str = "predicted",
        drift: bool = True,
        normalise: bool = True,
        schedule: str = "exponential",
        noise_steps: int = 50,
        first_beta: float = 1e-4,
        last_beta: float = 0.999,
        restore_steps: int = 4,
        eta: float = 0.0,
        channels: int = 64,
        depth: int = 2,
        kernel: int = 3,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if form not in FORMS:
            raise ValueError(f"restored must be one of {', '.join(FORMS)}, got {form!r}")
        if depth > (most := max(2, length.bit_length() - 1)):
            raise ValueError(f"depth = {depth}: a window of {length} places can be halved {most} times")
        self.form, self.drift, self.normalise = form, drift, normalise
        self.diffusion = Diffusion(betas(schedule, steps=noise_steps, first=first_beta, last=last_beta))
        self.diffusion.visited(restore_steps, eta)
        self.passes, self.eta = restore_steps, eta
        self.draws = restore_steps if eta > 0.0 else 1
        self.unet = UNet(dim=dim, channels=channels, depth=depth, kernel=kernel, causal=True)
        drawn = 0 if form == "predicted" else self.draws
        fixed = torch.randn(drawn, 1, length, dim, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("noise", fixed, persistent=False)

    def learn(
        self,
        vectors: Float[Tensor, "rows length dim"],
        following: Float[Tensor, "rows length dim"],
        mask: Bool[Tensor, "rows length"],
    ) -> tuple[Float[Tensor, "rows length dim"], Float[Tensor, ""]]:
        """Return the vectors that the tower reads in training, without gradient, and the U-Net's own error.

        Args:
            vectors: of the history.
            following: the true next one of each place.
            mask: True where both are there.
        """
        x, x_next = self._given(vectors), self._given(following)
        z_0 = drifts(x, x_next, mask) if self.drift else x_next * mask[:, :, None]
        if self.form == "predicted":
            found = self._predict(x, mask)
        else:
            step = torch.randint(1, self.diffusion.steps + 1, (len(x),), device=x.device)
            z_r = self.diffusion.noised(z_0, step, torch.randn_like(z_0))
            found = self.unet(z_r, x, mask, step)
        real = mask[:, :, None].to(found.dtype)
        loss = ((found - z_0).square() * real).sum() / (real.sum() * x.shape[-1]).clamp(min=1.0)
        if self.form == "as_served":
            fresh = torch.randn(self.draws, *x.shape, dtype=x.dtype, device=x.device)
            return self._used(self._from_noise(x, mask, fresh), x), loss
        return self._used(found.detach(), x), loss

    @torch.no_grad()
    def forward(
        self, vectors: Float[Tensor, "rows length dim"], mask: Bool[Tensor, "rows length"]
    ) -> Float[Tensor, "rows length dim"]:
        """Return the vectors that the tower reads in serving, when the next item is not known."""
        x = self._given(vectors)
        if self.form == "predicted":
            return self._used(self._predict(x, mask), x)
        fixed = self.noise[:, :, : x.shape[1]].expand(-1, len(x), -1, -1)
        return self._used(self._from_noise(x, mask, fixed), x)

    @torch.no_grad()
    def at_end(
        self, vectors: Float[Tensor, "rows length dim"], lengths: Int[Tensor, " rows"]
    ) -> Float[Tensor, "rows dim"]:
        """Return what `forward` gives at each row's last place, from the latest places that it depends on alone.

        These stand at the right of a window, whose start in the history is a multiple of the U-Net's smallest step, so
        that pairs of places are the same ones.
        """
        rows, grain = torch.arange(len(vectors), device=vectors.device), self.unet.grain
        passes = 1 if self.form == "predicted" else self.passes
        needed = passes * self.unet.reach + grain
        if self.form != "predicted" and needed >= vectors.shape[1]:
            every = torch.arange(vectors.shape[1], device=vectors.device)
            return self(vectors, every < lengths[:, None])[rows, (lengths - 1).clamp(min=0)]
        width = -(-min(needed, vectors.shape[1]) // grain) * grain
        start = -(-lengths // grain) * grain - width
        at = start[:, None] + torch.arange(width, device=vectors.device)
        mask = (at >= 0) & (at < lengths[:, None])
        x = self._given(vectors[rows[:, None], at.clamp(0, vectors.shape[1] - 1)])
        if self.form == "predicted":
            found = self._predict(x, mask, last=grain)
        else:
            found = self._from_noise(x, mask, self.noise[:, 0, at.clamp(0, self.noise.shape[2] - 1)])[:, -grain:]
        last = (lengths - 1 - start) - width + grain
        return self._used(found, x[:, -grain:])[rows, last]

    @torch.no_grad()
    def by_step(
        self,
        vectors: Float[Tensor, "rows length dim"],
        following: Float[Tensor, "rows length dim"],
        mask: Bool[Tensor, "rows length"],
        noise: Float[Tensor, "draws rows length dim"],
    ) -> dict[int, tuple[float, float]]:
        """Return how like the truth each pass is: the cosines in training and when asked, by the diffusion's step.

        Steps are those that asking visits, T first. In training a pass reads the true drift under the noise of that
        step; when asked it reads what the passes before made of pure noise. "predicted" has one pass, at step 0 and
        alike in both.

        Args:
            vectors: of the history.
            following: the true next one of each place.
            mask: the places that count.
            noise: standard normal draws, as many as the reverse process takes; the first also noises the true drift.
        """
        x, x_next = self._given(vectors), self._given(following)
        if self.form == "predicted":
            cosine = likeness(self._used(self._predict(x, mask), x), following, mask)
            return {0: (cosine, cosine)}
        z_0 = drifts(x, x_next, mask) if self.drift else x_next * mask[:, :, None]
        asked: list[float] = []

        def predict(z: Tensor, step: Tensor) -> Tensor:
            found: Tensor = self.unet(z, x, mask, step)
            asked.append(likeness(self._used(found, x), following, mask))
            return found

        self.diffusion.reverse(predict, noise, count=self.passes, eta=self.eta)
        trained = []
        for step in (path := self.diffusion.visited(self.passes)[:-1]):
            at = torch.full((len(x),), step, dtype=torch.int64, device=x.device)
            found = self.unet(self.diffusion.noised(z_0, at, noise[0]), x, mask, at)
            trained.append(likeness(self._used(found, x), following, mask))
        return dict(zip(path, zip(trained, asked, strict=True), strict=True))

    def _given(self, vectors: Tensor) -> Tensor:
        vectors = vectors.detach()
        return unit_variance(vectors) if self.normalise else vectors

    def _used(self, found: Tensor, x: Tensor) -> Tensor:
        return next_vectors(found, x) if self.drift else found

    def _predict(self, x: Tensor, mask: Tensor, last: int | None = None) -> Tensor:
        found: Tensor = self.unet(None, x, mask, torch.zeros(1, dtype=torch.int64, device=x.device), last)
        return found

    @torch.no_grad()
    def _from_noise(self, x: Tensor, mask: Tensor, noise: Tensor) -> Tensor:
        def predict(z: Tensor, step: Tensor) -> Tensor:
            found: Tensor = self.unet(z, x, mask, step)
            return found

        return self.diffusion.reverse(predict, noise, count=self.passes, eta=self.eta)


def likeness(
    found: Float[Tensor, "rows length dim"],
    truth: Float[Tensor, "rows length dim"],
    mask: Bool[Tensor, "rows length"],
) -> float:
    """Return the mean cosine of restored and true vectors over real places."""
    return float(F.cosine_similarity(found, truth, dim=-1)[mask].mean())
