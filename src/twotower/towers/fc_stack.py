"""Fully connected layers whose every output can be read."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from twotower.towers.batch_norm import normalised


class FCStack(nn.Module):
    """Apply linear map, batch normalisation, ReLU and dropout, once a width.

    Source: FIT (Xiong et al., SIGIR 2025), equation 1 and section 5.1.4.

    Args:
        width_in: numbers that go in.
        widths: numbers after each layer, at least one.
        batch_norm: whether each layer is normalised over the batch before its ReLU.
        dropout: share of numbers set to 0 after each layer in training.
        last_activation: whether ReLU and dropout follow the last layer too. A vector whose cosine is taken should
            have neither: between two vectors without negative numbers no cosine is negative.
    """

    def __init__(
        self,
        width_in: int,
        widths: Sequence[int],
        *,
        batch_norm: bool = True,
        dropout: float = 0.0,
        last_activation: bool = True,
    ) -> None:
        super().__init__()
        if not widths or min(width_in, *widths) < 1:
            raise ValueError(f"a stack of layers needs widths of at least 1, got {width_in} and {list(widths)}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        steps = list(zip([width_in, *widths], widths, strict=False))
        self.linears = nn.ModuleList(nn.Linear(wide, narrow) for wide, narrow in steps)
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) if batch_norm else nn.Identity() for width in widths)
        self.dropout = dropout
        self.last_activation = last_activation
        self.width = widths[-1]

    def forward(self, inputs: Float[Tensor, "*rows width_in"]) -> Float[Tensor, "*rows width"]:
        """Return the last layer's output."""
        return self.outputs(inputs)[-1]

    def outputs(self, inputs: Float[Tensor, "*rows width_in"]) -> list[Tensor]:
        """Return every layer's output, in order: [*rows, width]."""
        return self.after_first(self.linears[0](inputs))

    def first_of_parts(self, parts: Sequence[Tensor], widths: Sequence[int]) -> Tensor:
        """Return the first linear map of ``parts`` side by side, where parts may broadcast against each other.

        Each part meets its own slice of the weights, so what several rows share is mapped once.
        """
        first = self.linears[0]
        assert isinstance(first, nn.Linear)
        hidden: Tensor = first.bias
        for part, weight in zip(parts, first.weight.split(list(widths), dim=1), strict=True):
            hidden = hidden + F.linear(part, weight)
        return hidden

    def after_first(self, hidden: Float[Tensor, "*rows hidden"]) -> list[Tensor]:
        """Return every layer's output, given the first linear map of the input.

        Who can compute that map in parts, once for what several rows share, goes on from here.
        """
        outputs = [self._finish(0, hidden)]
        for place, linear in enumerate(self.linears[1:], start=1):
            outputs.append(self._finish(place, linear(outputs[-1])))
        return outputs

    def _finish(self, place: int, hidden: Tensor) -> Tensor:
        norm = self.norms[place]
        if isinstance(norm, nn.BatchNorm1d):
            hidden = normalised(norm, hidden.flatten(0, -2)).view_as(hidden)
        if place < len(self.linears) - 1 or self.last_activation:
            hidden = F.dropout(F.relu(hidden), self.dropout, self.training)
        return hidden
