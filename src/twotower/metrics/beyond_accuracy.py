"""Beyond accuracy: coverage, Gini index and popularity bias of the recommended items."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor


def coverage(counts: Int[Tensor, " items"]) -> float:
    """Return the share of items that are recommended at least once: 0 to 1.

    Examples:
        >>> import torch
        >>> coverage(torch.tensor([3, 0, 1, 0]))
        0.5
    """
    return (counts > 0).double().mean().item()


def gini(counts: Int[Tensor, " items"]) -> float:
    """Return the Gini index of recommendations over items: 0 all alike, near 1 all on one item.

        Σ_i (2 i − I − 1) c_i / (I Σ c), with c ascending and i = 1 … I

    Source: Gunawardana and Shani, Evaluating Recommender Systems, Recommender Systems Handbook 2015, section 8.3.8.
    Difference: they divide by I − 1 where we, with most of economics, divide by I.

    Raises:
        ValueError: if nothing was recommended.
    """
    total = _total(counts)
    items = len(counts)
    place = 2 * torch.arange(1, items + 1, device=counts.device) - items - 1
    return (place * counts.sort().values).double().sum().item() / (items * total)


def mean_popularity(counts: Int[Tensor, " items"], popularity: Int[Tensor, " items"]) -> float:
    """Return the average recommendation popularity (ARP): mean training events of a recommended item.

    Source: Yin et al., Challenging the Long Tail Recommendation, VLDB 2012, section 5.2.

    Raises:
        ValueError: if nothing was recommended.
    """
    return (counts * popularity).double().sum().item() / _total(counts)


def popularity_percentile(counts: Int[Tensor, " items"], popularity: Int[Tensor, " items"]) -> float:
    """Return the mean percentile of the recommended items in training popularity.

    0 is least popular, 1 most; random recommendations give 0.5.

    An item's percentile is the share of items below it, those as popular counting half.

    Raises:
        ValueError: if nothing was recommended.
    """
    _, group, sizes = popularity.unique(return_inverse=True, return_counts=True)
    below = sizes.cumsum(0) - sizes
    percentile = (below + 0.5 * sizes).double() / len(popularity)
    return (counts * percentile[group]).sum().item() / _total(counts)


def top_decile_share(counts: Int[Tensor, " items"], popularity: Int[Tensor, " items"]) -> float:
    """Return the share of recommendations among the tenth of items most popular in training.

    Random recommendations give 0.1.

    The tenth is rounded up to whole items; among equally popular ones the lower id is taken.

    Raises:
        ValueError: if nothing was recommended.
    """
    head = popularity.argsort(descending=True, stable=True)[: -(-len(popularity) // 10)]
    return counts[head].sum().item() / _total(counts)


def beyond_accuracy(counts: Int[Tensor, " items"], popularity: Int[Tensor, " items"]) -> dict[str, float]:
    """Return all metrics of this file, by name.

    Raises:
        ValueError: if nothing was recommended.
    """
    return {
        "coverage": coverage(counts),
        "gini": gini(counts),
        "mean_popularity": mean_popularity(counts, popularity),
        "popularity_percentile": popularity_percentile(counts, popularity),
        "top_decile_share": top_decile_share(counts, popularity),
    }


def _total(counts: Tensor) -> int:
    total = int(counts.sum())
    if not total:
        raise ValueError("nothing was recommended, so how recommendations spread is undefined")
    return total
