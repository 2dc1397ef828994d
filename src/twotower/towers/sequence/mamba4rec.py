"""Mamba4Rec: a selective state space over the history."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from twotower.ops.dropout import dropout
from twotower.ops.selective_scan import selective_scan
from twotower.towers.sequence.base import SequenceEncoder, check_settings

FASTEST, SLOWEST = 0.1, 0.001
"""Between these the step sizes start."""
HELD = 1 << 27
"""Numbers of state that a request's scan holds at a time: 512 MiB in float32, several times."""
CPU_USERS = 16
"""Users that a CPU asks about together: their states stay in its cache."""


class MambaState(NamedTuple):
    """Hold what a block remembers: its last inputs to the convolution, and the state space."""

    recent: Tensor
    space: Tensor


class SelectiveStateSpace(nn.Module):
    """Apply a selective state space: h_t = exp(Δ_t A) h_{t−1} + Δ_t B_t x_t and y_t = C_t h_t + D x_t, gated.

    Δ, B and C are read from x itself.

    A is diagonal and negative, so that no factor is larger than 1; x has passed a short causal convolution.
    """

    def __init__(self, *, dim: int, states: int, convolution: int, expand: int) -> None:
        super().__init__()
        inner = expand * dim
        self.states = states
        self.rank = math.ceil(dim / 16)
        self.project_in = nn.Linear(dim, 2 * inner, bias=False)
        self.convolution = nn.Conv1d(inner, inner, convolution, groups=inner)
        self.select = nn.Linear(inner, self.rank + 2 * states, bias=False)
        self.step_size = nn.Linear(self.rank, inner)
        self.log_decay = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(inner, 1))
        self.skip = nn.Parameter(torch.ones(inner))
        self.project_out = nn.Linear(inner, dim, bias=False)
        with torch.no_grad():
            sizes = torch.exp(torch.empty(inner).uniform_(math.log(SLOWEST), math.log(FASTEST)))
            self.step_size.bias.copy_(sizes.expm1().log())  # so that softplus of the bias is the size
            self.step_size.weight.uniform_(-(self.rank**-0.5), self.rank**-0.5)

    def forward(self, x: Float[Tensor, "users length dim"]) -> Float[Tensor, "users length dim"]:
        """Return the output at all places at once."""
        x, gate = self.project_in(x).chunk(2, dim=-1)
        x = F.silu(self.convolution(F.pad(x.mT, (self.convolution.kernel_size[0] - 1, 0)))).mT
        size, write, read = self._sizes(x)
        return self._out(x, selective_scan(x, size, -self.log_decay.exp(), write, read), gate)

    def step(
        self, x: Float[Tensor, "users dim"], state: MambaState | None
    ) -> tuple[Float[Tensor, "users dim"], MambaState]:
        """Return the output at one more place."""
        x, gate = self.project_in(x).chunk(2, dim=-1)
        width = self.convolution.kernel_size[0]
        before = x.new_zeros(*x.shape, width - 1) if state is None else state.recent
        recent = torch.cat([before, x[..., None]], dim=-1)
        x = F.silu(self.convolution(recent)[..., 0])
        decay, space, read = self._selected(x)
        if state is not None:
            space = space + decay * state.space
        return self._out(x, (space @ read[..., None])[..., 0], gate), MambaState(recent[..., 1:], space)

    def at_end(
        self, x: Float[Tensor, "users length dim"], lengths: Int[Tensor, " users"]
    ) -> Float[Tensor, "users dim"]:
        """Return the output at each user's last place, holding one state a user instead of one a place."""
        users, end = torch.arange(len(x), device=x.device), (lengths - 1).clamp(min=0)
        x, gate = self.project_in(x).chunk(2, dim=-1)
        x = F.silu(self.convolution(F.pad(x.mT, (self.convolution.kernel_size[0] - 1, 0)))).mT
        size, write, read = self._sizes(x)
        # A step of size 0 leaves the state as it is.
        size = size * (torch.arange(x.shape[1], device=x.device) < lengths[:, None])[:, :, None]
        rate, driven = -self.log_decay.exp(), size * x
        space = torch.zeros(len(x), *rate.shape, dtype=size.dtype, device=x.device)
        for place in range(x.shape[1]):
            decay = torch.exp(size[:, place, :, None] * rate)
            space = torch.addcmul(driven[:, place, :, None] * write[:, place, None], decay, space)
        y = (space @ read[users, end][..., None])[..., 0]
        return self._out(x[users, end], y, gate[users, end])

    def _selected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The factor of the state, what is added to it, and how it is read; at least float32."""
        size, write, read = self._sizes(x)
        decay = torch.exp(size[..., None] * -self.log_decay.exp())
        return decay, (size * x)[..., None] * write[..., None, :], read

    def _sizes(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Δ, B and C; at least float32."""
        parts = self.select(x).split([self.rank, self.states, self.states], dim=-1)
        size = self.step_size(parts[0])
        wide = torch.promote_types(size.dtype, torch.float32)
        return F.softplus(size.to(wide)), parts[1].to(wide), parts[2].to(wide)

    def _out(self, x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
        return self.project_out((y + self.skip * x) * F.silu(gate))


class MambaBlock(nn.Module):
    """Apply a selective state space and a feed-forward network, each with a residual and a layer norm after it."""

    def __init__(
        self, *, dim: int, states: int, convolution: int, expand: int, feed_forward: int, dropout: float
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.space = SelectiveStateSpace(dim=dim, states=states, convolution=convolution, expand=expand)
        self.space_norm = nn.LayerNorm(dim)
        self.wide = nn.Linear(dim, feed_forward * dim)
        self.narrow = nn.Linear(feed_forward * dim, dim)
        self.feed_forward_norm = nn.LayerNorm(dim)

    def forward(self, x: Float[Tensor, "users length dim"]) -> Float[Tensor, "users length dim"]:
        """Return the output at all places at once."""
        return self._rest(x, self.space(x))

    def at_end(
        self, x: Float[Tensor, "users length dim"], lengths: Int[Tensor, " users"]
    ) -> Float[Tensor, "users dim"]:
        """Return the output at each user's last place."""
        end = (lengths - 1).clamp(min=0)
        return self._rest(x[torch.arange(len(x), device=x.device), end], self.space.at_end(x, lengths))

    def step(
        self, x: Float[Tensor, "users dim"], state: MambaState | None
    ) -> tuple[Float[Tensor, "users dim"], MambaState]:
        """Return the output at one more place."""
        mixed, after = self.space.step(x, state)
        return self._rest(x, mixed), after

    def _rest(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = self.space_norm(x + dropout(mixed, self.dropout, self.training))
        wide = dropout(F.gelu(self.wide(x)), self.dropout, self.training)
        return self.feed_forward_norm(x + dropout(self.narrow(wide), self.dropout, self.training))


class Mamba4Rec(SequenceEncoder):
    """Encode a history by selective state spaces: each event decides what is kept and forgotten, at linear cost.

    It has a step form: a new event costs the same however long the history is. No positions are needed.

    Source: Liu et al., "Mamba4Rec", 2024, section 3; the state space is that of Gu and Dao, "Mamba", 2023, section 3
    and algorithm 2. Differences: where mamba-ssm is not installed, a scan in chunks of plain PyTorch instead of its
    fused kernel (it holds several times users × length × expand · dim × states numbers), and one layer has its residual
    too.

    Args:
        dim: width of events and states.
        layers: blocks.
        states: numbers of state a channel.
        convolution: events that the short convolution sees.
        expand: channels, in multiples of ``dim``.
        feed_forward: width of the hidden feed-forward layer, in multiples of ``dim``.
        dropout: share of numbers set to 0 in training.
    """

    def __init__(
        self,
        *,
        dim: int,
        layers: int = 1,
        states: int = 32,
        convolution: int = 4,
        expand: int = 2,
        feed_forward: int = 4,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        counts = {"dim": dim, "layers": layers, "states": states, "convolution": convolution, "expand": expand}
        check_settings(share=dropout, feed_forward=feed_forward, **counts)
        self.dropout = dropout
        self.state_size = expand * dim * states
        self.norm = nn.LayerNorm(dim)
        self.blocks = nn.ModuleList(
            MambaBlock(
                dim=dim,
                states=states,
                convolution=convolution,
                expand=expand,
                feed_forward=feed_forward,
                dropout=dropout,
            )
            for _ in range(layers)
        )

    def forward(
        self,
        events: Float[Tensor, "users length dim"],
        mask: Bool[Tensor, "users length"],
        times: Int[Tensor, "users length"] | None = None,
    ) -> Float[Tensor, "users length dim"]:
        """Return one state a place."""
        x = self.norm(dropout(events, self.dropout, self.training))
        for block in self.blocks:
            x = block(x)
        return x

    def at_end(
        self,
        events: Float[Tensor, "users length dim"],
        lengths: Int[Tensor, " users"],
        times: Int[Tensor, "users length"] | None = None,
    ) -> Float[Tensor, "users dim"]:
        """Return the state at each user's last place; on a CPU many users are run through place by place.

        The scan over all places at once is for devices that do many things side by side, and for few users; of many, so
        many at a time that they hold no more than `HELD` numbers of state.
        """
        if torch.compiler.is_compiling():
            return super().at_end(events, lengths, times)
        found = []
        if events.device.type != "cpu" or len(events) < CPU_USERS:
            together = max(1, HELD // max(1, events.shape[1] * self.state_size))
            for some, so_long in zip(events.split(together), lengths.split(together), strict=True):
                found.append(super().at_end(some, so_long))
            return torch.cat(found)
        for some, so_long in zip(events.split(CPU_USERS), lengths.split(CPU_USERS), strict=True):
            x = self.norm(dropout(some, self.dropout, self.training))
            for block in list(self.blocks)[:-1]:
                x = block(x)
            last = self.blocks[-1]
            assert isinstance(last, MambaBlock)
            found.append(last.at_end(x, so_long))
        return torch.cat(found)

    def step(
        self, event: Float[Tensor, "users dim"], state: list[MambaState] | None = None
    ) -> tuple[Float[Tensor, "users dim"], list[MambaState]]:
        """Return the state after one more event, and the memory of the blocks."""
        x, after = self.norm(dropout(event, self.dropout, self.training)), []
        for place, block in enumerate(self.blocks):
            assert isinstance(block, MambaBlock)
            x, kept = block.step(x, None if state is None else state[place])
            after.append(kept)
        return x, after
