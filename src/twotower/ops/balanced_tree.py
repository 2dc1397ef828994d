"""Balanced trees over points: every node of a level holds as many points as any other, or one more."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from twotower.ops.balanced_kmeans import balanced_kmeans


def levels_of(points: int, branches: int) -> int:
    """Count the levels of nodes between the root and the points, so that a last node holds at most ``branches`` points.

    It is at least 1; level l has branches^l nodes.

    Examples:
        >>> [levels_of(points, 2) for points in (1, 4, 5, 8, 9, 1_682)], levels_of(1_682, 8)
        ([1, 1, 2, 2, 3, 10], 3)
    """
    levels = 1
    while branches ** (levels + 1) < points:
        levels += 1
    return levels


def nodes_of(order: Int[Tensor, " points"], branches: int, levels: int) -> Int[Tensor, " points"]:
    """Return the node of the last level above each point, for points laid out in ``order``.

    Node ⌊place · branches^levels / points⌋, so that a node of any level holds ⌊n / nodes⌋ or ⌈n / nodes⌉ points, all
    next to each other in the order. The node above a node is its number divided by ``branches``.

    Args:
        order: the points, from the first place to the last: each number once.
        branches: children of a node.
        levels: of nodes below the root.
    """
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order), device=order.device)
    return places * branches**levels // max(1, len(order))


def order_by_likeness(
    points: Float[Tensor, "points dim"], generator: torch.Generator | None = None
) -> Int[Tensor, " points"]:
    """Order points by balanced hierarchical 2-means, down to single points, so that like ones are neighbours."""
    return balanced_kmeans(points, len(points), generator=generator).argsort()
