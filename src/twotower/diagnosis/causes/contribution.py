"""Contribution of inputs: the share of state variance that each carries, and how many directions the states fill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from twotower.core.records import State
from twotower.core.seeds import torch_generator
from twotower.core.states import take

Inputs: TypeAlias = dict[str, State]
"""One column of rows an input, by its name: features, and what else a tower reads (id, history)."""
Encode: TypeAlias = Callable[[Inputs], Tensor]
"""A tower: the states of the rows, [rows, numbers], each row for itself."""

SHIFTS = 8
"""Ways in which a column is dealt out anew; their mean is taken."""


def variance_shares(
    encode: Encode, inputs: Inputs, names: Sequence[str] | None = None, *, shifts: int = SHIFTS, seed: int = 0
) -> dict[str, float | None]:
    """Return the share of state variance that each input carries: its total effect.

    With z = f(x) the state of a row, and x' another row:

        T_j = E |f(x) - f(x with x_j from x')|² / (2 tr Cov z)

    1: only this input moves the states; 0: none of its values matters. Shares sum to 1 when the tower adds its inputs
    and these are independent; what acts only jointly is counted for each of them, so that the sum is above 1 then. None
    when all states are the same.

    Source: Jansen's estimator of the Sobol total index (Saltelli et al., 2010, Table 2, row f), with the trace of the
    covariance for several outputs (Gamboa et al., 2014). Difference: x' are the other rows of the same set, every row
    ``shifts`` times, and never the row itself; with shifts = rows - 1 the figure of the set is exact.

    Args:
        encode: a tower.
        inputs: its columns; the rows measured.
        names: inputs to measure; None: all.
        shifts: of the column, each by another number of rows after one random order; at least 1.
        seed: of that order.

    Examples:
        >>> rows = {"a": torch.tensor([0.0, 1.0, 2.0]), "b": torch.tensor([5.0, 5.0, 5.0])}
        >>> variance_shares(lambda x: torch.stack([x["a"], x["b"]], dim=1), rows, shifts=2)
        {'a': 1.0, 'b': 0.0}
    """
    states = encode(inputs).double()
    count = len(states)
    wanted = list(inputs) if names is None else list(names)
    if count < 2:
        return dict.fromkeys(wanted)
    variance = states.var(dim=0).sum().item()
    # float32 towers leave rounding in equal states
    if not variance > 1e-12 * states.square().sum(1).mean().item():
        return dict.fromkeys(wanted)
    shares: dict[str, float | None] = {}
    for name in wanted:
        generator = torch_generator(seed, "shares", name)
        order = torch.randperm(count, generator=generator)
        place = order.argsort()
        steps = (torch.randperm(count - 1, generator=generator) + 1)[:shifts].tolist()
        moved = 0.0
        for step in steps:
            others = order[(place + step) % count]
            changed = encode({**inputs, name: take(inputs[name], others)}).double()
            moved += (changed - states).square().sum(1).mean().item()
        shares[name] = moved / len(steps) / (2.0 * variance)
    return shares


def directions_filled(states: Float[Tensor, "rows numbers"]) -> float:
    """Return 1 over the mean squared cosine of all pairs, self-pairs too: the participation ratio of directions.

    1 when every state points the same way or the opposite one, the number of dimensions when directions are even: it
    falls both for a cone and for a loss of rank. States without a direction are left out; 1 when none is left.

    Examples:
        >>> directions_filled(torch.eye(3)), directions_filled(torch.ones(4, 2))
        (3.0, 1.0)
    """
    lengths = torch.linalg.vector_norm(states.double(), dim=1, keepdim=True)
    unit = (states.double() / lengths)[lengths[:, 0] > 0]
    if not len(unit):
        return 1.0
    narrow = unit.T @ unit if unit.shape[1] < len(unit) else unit @ unit.T
    return round(len(unit) ** 2 / narrow.square().sum().item(), 12)
