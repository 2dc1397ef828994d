"""LRURec: linear recurrent units, trained in parallel and served step by step."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from twotower.ops.dropout import dropout
from twotower.ops.scan import linear_scan
from twotower.towers.sequence.base import SequenceEncoder, check_settings

SMALLEST, LARGEST = 0.8, 0.99
"""The ring in which the eigenvalues start."""


class LinearRecurrentUnit(nn.Module):
    """Apply h_t = λ h_{t−1} + γ B x_t, y_t = Re(C h_t) + b, with complex h, B, C and a diagonal λ of |λ| < 1.

    λ = exp(−exp(ν) + i exp(θ)), so that no step of training can leave the unit circle; γ starts at √(1 − |λ|²), which
    keeps the size of h near that of its inputs.

    Complex maps are stored as real ones of twice the width, so that any optimiser and any file can hold them.
    """

    def __init__(self, *, dim: int, states: int) -> None:
        super().__init__()
        squared = SMALLEST**2 + torch.rand(states) * (LARGEST**2 - SMALLEST**2)
        self.nu = nn.Parameter((-0.5 * squared.log()).log())
        self.theta = nn.Parameter((2 * math.pi * torch.rand(states)).clamp(min=1e-4).log())
        self.log_gamma = nn.Parameter(0.5 * (1 - squared).log())
        self.project_in = nn.Linear(dim, 2 * states)
        self.project_out = nn.Linear(2 * states, dim)

    @property
    def eigenvalues(self) -> Shaped[Tensor, " states"]:
        """Return λ, complex."""
        return torch.polar((-self.nu.exp()).exp(), self.theta.exp())

    def forward(self, x: Float[Tensor, "users length dim"]) -> Float[Tensor, "users length dim"]:
        """Return the output at all places at once."""
        inputs = self._driven(x)
        return self._read(linear_scan(self.eigenvalues.expand_as(inputs), inputs))

    def at_end(
        self, x: Float[Tensor, "users length dim"], lengths: Int[Tensor, " users"]
    ) -> Float[Tensor, "users dim"]:
        """Return the output at each user's last real place: Σ λ^(last − k) γ B x_k, without the states between."""
        places = torch.arange(x.shape[1], device=x.device)
        ages = (lengths - 1).clamp(min=0)[:, None] - places
        driven = self._driven(x) * (ages >= 0)[:, :, None]
        # Angles grow with the age, so that their powers are taken in float64.
        decay, angle = -self.nu.double().exp() * places[:, None], self.theta.double().exp() * places[:, None]
        powers = torch.polar(decay.exp(), angle).to(driven.dtype)
        return self._read((powers[ages.clamp(min=0)] * driven).sum(1))

    def step(
        self, x: Float[Tensor, "users dim"], state: Shaped[Tensor, "users states"] | None
    ) -> tuple[Float[Tensor, "users dim"], Shaped[Tensor, "users states"]]:
        """Return the output at one more place, and the complex state after it."""
        after = self._driven(x)
        if state is not None:
            after = after + self.eigenvalues * state
        return self._read(after), after

    def _driven(self, x: Tensor) -> Tensor:
        given = self.project_in(x)
        # There are no complex numbers of half precision.
        real, imaginary = given.to(torch.promote_types(given.dtype, torch.float32)).chunk(2, dim=-1)
        return torch.complex(real, imaginary) * self.log_gamma.exp()

    def _read(self, states: Tensor) -> Tensor:
        return self.project_out(torch.cat([states.real, -states.imag], dim=-1))


class LRUBlock(nn.Module):
    """Apply a linear recurrent unit and a feed-forward network, each with a residual and a layer norm after it."""

    def __init__(self, *, dim: int, states: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.unit = LinearRecurrentUnit(dim=dim, states=states)
        self.unit_norm = nn.LayerNorm(dim)
        self.wide = nn.Linear(dim, feed_forward * dim)
        self.narrow = nn.Linear(feed_forward * dim, dim)
        self.feed_forward_norm = nn.LayerNorm(dim)

    def forward(self, x: Float[Tensor, "users length dim"]) -> Float[Tensor, "users length dim"]:
        """Return the output at all places at once."""
        return self._rest(x, self.unit(x))

    def at_end(
        self, x: Float[Tensor, "users length dim"], lengths: Int[Tensor, " users"]
    ) -> Float[Tensor, "users dim"]:
        """Return the output at each user's last real place, without the work for the others."""
        end = (lengths - 1).clamp(min=0)
        return self._rest(x[torch.arange(x.shape[0], device=x.device), end], self.unit.at_end(x, lengths))

    def step(self, x: Float[Tensor, "users dim"], state: Tensor | None) -> tuple[Float[Tensor, "users dim"], Tensor]:
        """Return the output at one more place."""
        mixed, after = self.unit.step(x, state)
        return self._rest(x, mixed), after

    def _rest(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = self.unit_norm(x + dropout(mixed, self.dropout, self.training))
        wide = dropout(F.gelu(self.wide(x)), self.dropout, self.training)
        return self.feed_forward_norm(x + dropout(self.narrow(wide), self.dropout, self.training))


class LRURec(SequenceEncoder):
    """Encode a history by blocks of linear recurrent units: no attention and no positions.

    Trained at all places at once.

    It has a step form: a new event costs the same however long the history is.

    Source: Yue et al., "Linear recurrent units for sequential recommendation", WSDM 2024, section 3 (the unit, its
    parallel form and the block); the unit is that of Orvieto et al., ICML 2023, section 3. Differences: histories are
    padded at the end, so that the unit needs no mask; the scan runs in chunks instead of halves, for any length; angles
    start everywhere on the circle; and the loss is chosen by the run (the paper's is full softmax).

    Args:
        dim: width of events and states.
        layers: blocks.
        states: complex numbers of the recurrent state; 0: twice ``dim``.
        feed_forward: width of the hidden feed-forward layer, in multiples of ``dim``.
        dropout: share of numbers set to 0 in training.
    """

    no_onnx = "its recurrence is one of complex numbers, which ONNX has no operators for"

    def __init__(
        self, *, dim: int, layers: int = 2, states: int = 0, feed_forward: int = 4, dropout: float = 0.2
    ) -> None:
        super().__init__()
        check_settings(share=dropout, dim=dim, layers=layers, feed_forward=feed_forward)
        self.dropout = dropout
        self.norm = nn.LayerNorm(dim)
        self.blocks = nn.ModuleList(
            LRUBlock(dim=dim, states=states or 2 * dim, feed_forward=feed_forward, dropout=dropout)
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
        """Return the state at each user's last real place; the last block works for that place alone."""
        x = self.norm(dropout(events, self.dropout, self.training))
        for block in list(self.blocks)[:-1]:
            x = block(x)
        found: Tensor = self.blocks[-1].at_end(x, lengths)  # type: ignore[operator]
        return found

    def step(
        self, event: Float[Tensor, "users dim"], state: list[Tensor] | None = None
    ) -> tuple[Float[Tensor, "users dim"], list[Tensor]]:
        """Return the state after one more event, and the recurrent states of the blocks."""
        x, after = self.norm(dropout(event, self.dropout, self.training)), []
        for place, block in enumerate(self.blocks):
            assert isinstance(block, LRUBlock)
            x, kept = block.step(x, None if state is None else state[place])
            after.append(kept)
        return x, after
