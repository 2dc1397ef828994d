"""Registry of towers: networks from the fields of one side to its vector. Your own comes by `TOWERS.register`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from twotower.core.registry import Registry
from twotower.towers.fc_stack import FCStack
from twotower.towers.mlp import mlp


def feed_forward(width: int, dim: int, *, hidden: Sequence[int], dropout: float, batch_norm: bool) -> nn.Module:
    """Build the MLP from ``width`` numbers to ``dim``; with ``batch_norm`` each layer is normalised over the batch."""
    if batch_norm:
        return FCStack(width, [*hidden, dim], dropout=dropout, last_activation=False)
    return mlp([width, *hidden, dim], dropout=dropout)


def rectified(width: int, dim: int, *, hidden: Sequence[int], dropout: float, batch_norm: bool) -> nn.Module:
    """Build the same with a ReLU after the last layer too.

    Source: Xiong et al., SIGIR 2025, equation 1 as printed.

    Between two vectors without negative numbers no cosine is below 0.
    """
    return FCStack(width, [*hidden, dim], batch_norm=batch_norm, dropout=dropout)


TOWERS: Registry[Callable[..., nn.Module]] = Registry(
    "tower", "twotower.TOWERS", {"mlp": feed_forward, "relu_mlp": rectified}, group="twotower.towers"
)


def build_tower(
    name: str, width: int, dim: int, *, hidden: Sequence[int], dropout: float, batch_norm: bool
) -> nn.Module:
    """Build the tower of a name: called as ``part(width, dim, hidden=…, dropout=…, batch_norm=…)``.

    Args:
        name: registered.
        width: numbers of a row that it reads.
        dim: numbers of the vector that it gives.
        hidden: widths of the layers between.
        dropout: share of hidden numbers set to 0 in training.
        batch_norm: whether layers are normalised over the batch.

    Raises:
        InputError: if no tower has that name; names the closest.
    """
    return TOWERS.get(name)(width, dim, hidden=hidden, dropout=dropout, batch_norm=batch_norm)
