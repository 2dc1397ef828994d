"""Cluster structure of the vectors: k-means, then the Davies–Bouldin index and the silhouette."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from twotower.core.seeds import torch_generator
from twotower.ops.kmeans import kmeans

CLUSTERS = 5
RESTARTS = 10
SILHOUETTE_ROWS = 10_000
"""Above this many rows the silhouette is that of a stated sample."""
_DOUBLE_ROWS = 4_096
_TILE_NUMBERS = 4_000_000


def cluster_figures(rows: Float[Tensor, "rows dim"], seed: int) -> dict[str, Any]:
    """Return Davies–Bouldin and silhouette of k-means (k = 5, ten restarts).

    None where fewer than k clusters can be told.

    Source: George et al., "Diagnosing Embedding Space Collapse", section IV c. Distances are Euclidean on the vectors
    as given, as there.
    """
    missing = {"davies_bouldin": None, "silhouette": None, "silhouette_rows": 0}
    if len(rows) <= CLUSTERS:
        return missing
    fast = rows if len(rows) <= _DOUBLE_ROWS else (rows - rows.mean(0)).float()
    found = kmeans(fast, CLUSTERS, restarts=RESTARTS, generator=torch_generator(seed, "clusters"))
    if len(found.labels.unique()) < CLUSTERS:
        return missing
    kept, labels = fast, found.labels
    if len(rows) > SILHOUETTE_ROWS:
        sample = torch.randperm(len(rows), generator=torch_generator(seed, "silhouette"))[:SILHOUETTE_ROWS]
        kept, labels = fast[sample], found.labels[sample]
    return {
        "davies_bouldin": davies_bouldin(rows, found.labels),
        "silhouette": silhouette(kept, labels) if len(labels.unique()) > 1 else None,
        "silhouette_rows": len(kept),
    }


def davies_bouldin(rows: Float[Tensor, "rows dim"], labels: Int[Tensor, " rows"]) -> float | None:
    """Return the mean over clusters of the worst (spread_i + spread_j) / distance_ij.

    None when two centres coincide.

    A spread is the mean distance of a cluster's rows to their mean. Low is well separated.

    Source: Davies and Bouldin, IEEE PAMI 1979, with p = q = 1 and 2 as scikit-learn has it.

    Examples:
        >>> rows = torch.tensor([[0.0, 0], [2, 0], [10, 0], [12, 0]])
        >>> davies_bouldin(rows, torch.tensor([0, 0, 1, 1]))
        0.2
    """
    values = rows.double()
    _, labels = labels.unique(return_inverse=True)
    count = torch.bincount(labels)
    centres = values.new_zeros(len(count), values.shape[1]).index_add_(0, labels, values) / count[:, None]
    own = torch.linalg.vector_norm(values - centres[labels], dim=1)
    spread = values.new_zeros(len(count)).index_add_(0, labels, own) / count
    distance = torch.cdist(centres, centres, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
    if not distance.min() > 0.0:
        return None
    return ((spread[:, None] + spread) / distance).max(1).values.mean().item()


def silhouette(rows: Float[Tensor, "rows dim"], labels: Int[Tensor, " rows"]) -> float:
    """Return the mean over rows of (b − a) / max(a, b): a to its own cluster, b to the nearest other.

    0 for a cluster of one.

    Both are mean Euclidean distances. Distances are formed in tiles, in the dtype of ``rows``.

    Source: Rousseeuw, J. Computational and Applied Mathematics 1987.

    Raises:
        ValueError: with fewer than two clusters.

    Examples:
        >>> round(silhouette(torch.tensor([[0.0], [1], [10], [11]]), torch.tensor([0, 0, 1, 1])), 4)
        0.8997
    """
    _, labels = labels.unique(return_inverse=True)
    count = torch.bincount(labels)
    if len(count) < 2:
        raise ValueError("a silhouette needs at least two clusters, got one")
    rows = rows - rows.mean(0)
    square, one = rows.square().sum(1, keepdim=True), rows.new_ones(len(rows), 1)
    left, right = torch.cat([-2.0 * rows, square, one], dim=1), torch.cat([rows, one, square], dim=1)
    member = torch.nn.functional.one_hot(labels).to(rows.dtype)
    sums = torch.zeros(len(rows), len(count), dtype=torch.float64)
    tile = max(1, min(len(rows), _TILE_NUMBERS // len(rows)))
    scratch = rows.new_empty(tile * len(rows))
    for start in range(0, len(rows), tile):
        here = slice(start, start + tile)
        part, rest = left[here], right[start:]
        distance = torch.mm(part, rest.T, out=scratch[: len(part) * len(rest)].view(len(part), -1))
        distance.clamp_(min=0.0).sqrt_()
        distance.diagonal().zero_()
        sums[here] += distance @ member[start:]
        # a distance holds both ways, so what lies before the tile is not formed again
        sums[start + len(part) :] += distance[:, len(part) :].T @ member[here]
    own = labels[:, None]
    within = sums.gather(1, own)[:, 0] / (count[labels] - 1).clamp(min=1)
    between = (sums / count).scatter_(1, own, torch.inf).min(1).values
    width = torch.maximum(within, between)
    return torch.where((count[labels] > 1) & (width > 0), (between - within) / width, 0.0).mean().item()
