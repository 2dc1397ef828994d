"""U-Net over a history, conditioned on the history itself and on the step of the diffusion."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


class MaskedConvolution(nn.Module):
    """Convolve over places, reading zeros where a row is padded.

    In the causal form place t reads t − kernel + 1 … t, else as many before as after.
    """

    def __init__(self, inside: int, outside: int, *, kernel: int, causal: bool) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(inside, outside, kernel)
        self.around = (kernel - 1, 0) if causal else ((kernel - 1) // 2, kernel // 2)

    def forward(
        self, x: Float[Tensor, "rows length inside"], mask: Bool[Tensor, "rows length"]
    ) -> Float[Tensor, "rows length outside"]:
        """Return one vector a place."""
        x = x * mask[:, :, None]
        found: Tensor = self.convolution(F.pad(x.mT, self.around)).mT
        return found


class Block(nn.Module):
    """Apply norm, convolution, step, norm, convolution, and a residual.

    Norms are of one place, away from padding.
    """

    def __init__(self, inside: int, outside: int, *, kernel: int, causal: bool) -> None:
        super().__init__()
        self.first_norm, self.second_norm = nn.LayerNorm(inside), nn.LayerNorm(outside)
        self.first = MaskedConvolution(inside, outside, kernel=kernel, causal=causal)
        self.second = MaskedConvolution(outside, outside, kernel=kernel, causal=causal)
        self.step = nn.Linear(outside, outside)
        self.passed = nn.Linear(inside, outside) if inside != outside else nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "rows length inside"],
        mask: Bool[Tensor, "rows length"],
        step: Float[Tensor, "steps outside"],
    ) -> Float[Tensor, "rows length outside"]:
        """Apply the block to every place; one step may serve all rows."""
        inner = self.first(F.silu(self.first_norm(x)), mask) + self.step(step)[:, None]
        passed: Tensor = self.passed(x)
        return passed + self.second(F.silu(self.second_norm(inner)), mask)


class UNet(nn.Module):
    """Predict x_0 at every place from x_t, the history and t.

    Levels below the first have half the places each: a pair of places becomes one by a convolution of stride 2, and on
    the way up each place is repeated and joined with what the level had on the way down (skip connections). Vectors of
    padded places are zeros for every convolution, however many there are.

    The causal form makes every place a last place: kernels look back alone, the pair below place t is [2t − 1, 2t], and
    place t is repeated to 2t and 2t + 1. Otherwise pairs are [2t, 2t + 1], and a place sees what follows it: as a
    history's own drift stands between its events, only the last place is then a question that is not already answered.

    Source: Wang et al. (T2Diff), WWW 2025, section 4.2 and equation 15. Differences: the paper gives neither depth nor
    channels nor how the step enters (here as sines of its number, through two layers, added in every block); the causal
    form is ours.

    Args:
        dim: width of x_t, of the history's vectors and of the answer.
        channels: width inside, at every level.
        depth: levels below the first.
        kernel: places that a convolution reads.
        causal: whether a place sees what follows it.
    """

    rates: Tensor

    def __init__(self, *, dim: int, channels: int = 64, depth: int = 2, kernel: int = 3, causal: bool = True) -> None:
        super().__init__()
        if min(dim, channels, kernel) < 1 or depth < 0:
            raise ValueError(
                "dim, channels and kernel must be at least 1 and depth at least 0, "
                f"got {dim}, {channels}, {kernel} and {depth}"
            )
        self.channels, self.causal = channels, causal
        self.grain, self.block_reach = 2**depth, 2 * (kernel - 1)
        half = (channels + 1) // 2
        self.register_buffer("rates", torch.exp(-math.log(10_000.0) * torch.arange(half) / half), persistent=False)
        self.step = nn.Sequential(nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, channels), nn.SiLU())
        self.enter = nn.Linear(2 * dim, channels)
        self.down = nn.ModuleList(Block(channels, channels, kernel=kernel, causal=causal) for _ in range(depth))
        self.halve = nn.ModuleList(nn.Conv1d(channels, channels, 2, stride=2) for _ in range(depth))
        self.middle = Block(channels, channels, kernel=kernel, causal=causal)
        self.up = nn.ModuleList(Block(2 * channels, channels, kernel=kernel, causal=causal) for _ in range(depth))
        self.norm = nn.LayerNorm(channels)
        self.leave = nn.Linear(channels, dim)

    @property
    def reach(self) -> int:
        """Return how many places before a place its answer depends on, in the causal form."""
        # A level's places stand for 1, 2, 4 … of the first: blocks on both ways, a pair going down and one going up.
        levels = sum(2**level * (2 * self.block_reach + 2) for level in range(len(self.down)))
        return levels + self.grain * self.block_reach

    def forward(
        self,
        x_t: Float[Tensor, "rows length dim"] | None,
        history: Float[Tensor, "rows length dim"],
        mask: Bool[Tensor, "rows length"],
        step: Int[Tensor, " steps"],
        last: int | None = None,
    ) -> Float[Tensor, "rows places dim"]:
        """Return the predicted x_0; meaningless where it is padded.

        Args:
            x_t: what the diffusion has at step t; None: zeros.
            history: vectors of the events.
            mask: True where there is one.
            step: t of each row, or one for all.
            last: how many of the last places are wanted, in the causal form; the way up then leaves out what these do
                not depend on. None: all.
        """
        angles = step[:, None] * self.rates
        embedded = self.step(torch.cat([angles.sin(), angles.cos()], dim=1)[:, : self.channels])
        if x_t is None:
            x = F.linear(history, self.enter.weight[:, history.shape[-1] :], self.enter.bias)
        else:
            x = self.enter(torch.cat([x_t, history], dim=-1))
        levels: list[tuple[Tensor, Tensor]] = []
        for block, halve in zip(self.down, self.halve, strict=True):
            x = block(x, mask, embedded)
            levels.append((x, mask))
            x, mask = self._halved(halve, x, mask)
        wanted = [0] if last is None else [max(0, history.shape[1] - last)]
        """First place that is wanted, by level; each is read from a block that begins early enough for it."""
        begins = []
        for _ in levels:
            begins.append(max(0, wanted[-1] - self.block_reach) // 2 * 2)
            wanted.append(begins[-1] // 2)
        x = self.middle(x, mask, embedded)[:, wanted.pop() :]
        for block, (skipped, mask) in zip(self.up, reversed(levels), strict=True):
            begin = begins.pop()
            skipped, mask = skipped[:, begin:], mask[:, begin:]
            repeated = x.repeat_interleave(2, dim=1)[:, : skipped.shape[1]]
            x = block(torch.cat([repeated, skipped], dim=-1), mask, embedded)[:, wanted.pop() - begin :]
        found: Tensor = self.leave(self.norm(x))
        return found

    def _halved(self, halve: nn.Module, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Pairs of places as one; it is there where one of the two is."""
        left = int(self.causal)
        around = (left, (x.shape[1] + left) % 2)
        pairs = F.pad((x * mask[:, :, None]).mT, around)
        return halve(pairs).mT, F.pad(mask, around).unflatten(1, (-1, 2)).any(-1)
