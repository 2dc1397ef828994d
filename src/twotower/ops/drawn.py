"""A drawn few of the rows of each group."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor


def drawn_of_each(groups: Int[Tensor, " rows"], most: int) -> Int[Tensor, " kept"]:
    """Return which rows are kept when each group keeps ``most`` of its own at most, drawn evenly; in their order.

    Draws come from the global generator of the rows' device.

    Examples:
        >>> drawn_of_each(torch.tensor([0, 2, 2, 5]), 2)
        tensor([0, 1, 2, 3])
    """
    keys = groups.double() + torch.rand(len(groups), dtype=torch.float64, device=groups.device)
    order = keys.argsort()
    ordered = groups[order]
    rank = torch.arange(len(groups), device=groups.device) - torch.searchsorted(ordered, ordered)
    return order[rank < most].sort().values
