"""Balanced hierarchical 2-means: clusters whose sizes differ by at most one, on the device of the points."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from twotower.core.errors import InputError


def balanced_kmeans(
    points: Float[Tensor, "points dim"],
    num_clusters: int,
    *,
    generator: torch.Generator | None = None,
    iterations: int = 6,
) -> Int[Tensor, " points"]:
    """Return the cluster of each point: 0 to num_clusters − 1, each of ⌊n/k⌋ or ⌈n/k⌉ points.

    Clusters near each other have near numbers.

    The set is split in two, then each half, and so on. A split starts from two random points as centroids and
    repeats: order the points by their projection on the difference of the centroids, cut where the sizes must be, take
    the means of the two sides. For given centroids that cut is the best balanced assignment, so each repetition lowers
    the within-cluster squared distance. All splits of a level are done at once, as one batch of products and sorts.

    Time grows with points · dim · log(num_clusters); memory is two copies of ``points`` at most.

    Source: balanced hierarchical 2-means as in NGAME (Dahiya et al., WSDM 2023), after Prabhu et al., WWW 2018.
    Difference: squared distance and plain means (equal to theirs on unit vectors up to the means' length), a fixed
    number of repetitions, and any number of clusters, not only powers of two.

    Args:
        points: vectors, any floating dtype; distances are in float32 or wider.
        num_clusters: 1 to the number of points.
        generator: picks the first centroids, on the device of the points.
        iterations: repetitions of each split.

    Raises:
        InputError: if there are fewer points than clusters, or the points hold NaN or infinity.

    Examples:
        >>> line = torch.tensor([[0.0], [10.0], [1.0], [11.0], [20.0]])
        >>> labels = balanced_kmeans(line, 2, generator=torch.Generator().manual_seed(0))
        >>> sorted(labels.bincount().tolist()), bool(labels[1] == labels[3])
        ([2, 3], True)
    """
    if not 1 <= num_clusters <= len(points):
        raise InputError(
            f"balanced clustering: {num_clusters} clusters of {len(points)} points; ask for 1 to that many"
        )
    if iterations < 1:
        raise InputError(f"balanced clustering: iterations must be at least 1, got {iterations}")
    points = points.detach().to(torch.promote_types(points.dtype, torch.float32))
    if not points.isfinite().all():
        bad = int((~points.isfinite()).any(1).sum())
        raise InputError(f"balanced clustering: {bad} of {len(points)} vectors hold NaN or inf; was training stable?")
    ends = _ends(len(points), num_clusters)
    order = torch.arange(len(points), device=points.device)
    # A part is a run of ``order`` that will hold ``counts`` clusters from number ``firsts`` on. Both stay on the host.
    firsts, counts = torch.zeros(1, dtype=torch.int64), torch.tensor([num_clusters])
    while int(counts.max()) > 1:
        halves = (counts + 1) // 2
        split = counts > 1
        first, middle, last = firsts[split], (firsts + halves)[split], (firsts + counts)[split]
        _split(points, order, ends[first], ends[middle], ends[last], generator, iterations)
        firsts = torch.stack([firsts, firsts + halves], dim=1).flatten()
        counts = torch.stack([halves, counts - halves], dim=1).flatten()
        firsts, counts = firsts[counts > 0], counts[counts > 0]
    labels = torch.empty_like(order)
    sizes = ends.diff().to(points.device)
    labels[order] = torch.arange(num_clusters, device=points.device).repeat_interleave(sizes, output_size=len(points))
    return labels


def _ends(num_points: int, num_clusters: int) -> Tensor:
    """Where each cluster begins in the final order, and the end: the first n mod k clusters hold one point more."""
    size, larger = divmod(num_points, num_clusters)
    clusters = torch.arange(num_clusters + 1)
    return clusters * size + clusters.clamp(max=larger)


def _split(
    points: Tensor,
    order: Tensor,
    starts: Tensor,
    cuts: Tensor,
    ends: Tensor,
    generator: torch.Generator | None,
    iterations: int,
) -> None:
    """Reorder the parts ``order[starts:ends]`` so that each part's first side stands before its cut."""
    length = int((ends - starts).max())
    starts, sizes, left = (part.to(points.device) for part in (starts, ends - starts, cuts - starts))
    column = torch.arange(length, device=points.device)
    inside = column < sizes[:, None]
    place = (starts[:, None] + column).clamp_(max=len(order) - 1)
    members = order[place]
    padded = points[members]
    sides = torch.where(column < left[:, None], 1.0 / left[:, None], -1.0 / (sizes - left)[:, None]).to(points.dtype)
    sides = sides.masked_fill_(~inside, 0.0)

    part = torch.arange(len(starts), device=points.device)
    draw = torch.rand(2, len(starts), generator=generator, device=points.device, dtype=torch.float64)
    one = (draw[0] * sizes).long()
    other = (one + 1 + (draw[1] * (sizes - 1)).long()) % sizes
    direction = padded[part, one] - padded[part, other]
    weights = torch.empty_like(sides)
    for _ in range(iterations):
        projection = torch.bmm(padded, direction[:, :, None])[:, :, 0].masked_fill_(~inside, float("-inf"))
        ranked = projection.argsort(dim=1, descending=True, stable=True)
        weights.scatter_(1, ranked, sides)
        direction = torch.bmm(weights[:, None], padded)[:, 0]
    order[place[inside]] = members.gather(1, ranked)[inside]
