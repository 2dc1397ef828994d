"""Hubness: skewness of how often each vector is among the nearest of others."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor


def occurrences(neighbours: Int[Tensor, "queries k"], rows: int) -> Int[Tensor, " rows"]:
    """Return how many queries have each row among their nearest.

    Examples:
        >>> occurrences(torch.tensor([[1], [2], [1]]), 3)
        tensor([0, 2, 1])
    """
    return torch.bincount(neighbours.reshape(-1), minlength=rows)


def skewness(counts: Int[Tensor, " rows"]) -> float | None:
    """Return E[(N − mean)³] / deviation³ of the k-occurrence; None when all are equal.

    Above about 2, hubs dominate.

    Source: Radovanović et al., "Hubs in Space", JMLR 2010, equation 1.
    """
    values = counts.double()
    centred = values - values.mean()
    variance = centred.square().mean()
    return (centred.pow(3).mean() / variance.pow(1.5)).item() if variance > 0 else None


def anti_hub_share(counts: Int[Tensor, " rows"]) -> float:
    """Return the share of rows that are no one's neighbour: never recommended.

    Examples:
        >>> anti_hub_share(torch.tensor([0, 2, 1, 0]))
        0.5
    """
    return (counts == 0).double().mean().item()
