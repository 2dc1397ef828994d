"""Multi-layer perceptron: a stack of linear layers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def mlp(widths: Sequence[int], *, dropout: float = 0.0, last_activation: bool = False) -> nn.Sequential:
    """Build linear layers through ``widths`` with ReLU and dropout between them.

    Args:
        widths: numbers in, after each layer, and out; at least two.
        dropout: share of hidden numbers set to 0 in training, in [0, 1).
        last_activation: whether ReLU follows the last layer too.

    Raises:
        ValueError: if there are fewer than two widths, one is below 1, or ``dropout`` is out of range.
    """
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"an MLP needs at least two widths of at least 1, got {list(widths)}")
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout must be in [0, 1), got {dropout}")
    layers: list[nn.Module] = []
    for place, (wide, narrow) in enumerate(pairwise(widths), start=1):
        layers.append(nn.Linear(wide, narrow))
        if place < len(widths) - 1 or last_activation:
            layers.append(nn.ReLU())
            if dropout:
                layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers)
