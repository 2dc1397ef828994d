"""Clustered batches: users with states near each other share a batch, so their items are hard negatives.

The method is NGAME (negative mining-aware mini-batching for extreme classification).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.seeds import torch_generator
from twotower.ops.balanced_kmeans import balanced_kmeans


@dataclass(frozen=True)
class ClusterSchedule:
    """Schedule the size of clusters epoch by epoch: larger clusters, harder negatives.

    Source: section 4.2 of the negative-sampling report: size 1, doubled every 30 epochs, clustered anew every 10, at
    least 10 clusters. The published NGAME doubles at listed epochs and clusters anew every 5.
    """

    start_size: int = 1
    """Points of a cluster in the first epoch; 1 is plain shuffling."""
    double_every: int = 30
    """Epochs after which the size doubles."""
    refresh_every: int = 10
    """Epochs between clusterings, and whenever the size changes."""
    min_clusters: int = 10
    """The size stops growing where there would be fewer clusters than this."""

    def __post_init__(self) -> None:
        for name in ("start_size", "double_every", "refresh_every", "min_clusters"):
            if getattr(self, name) < 1:
                raise InputError(f"clusters.{name} must be at least 1, got {getattr(self, name)}")

    def size(self, epoch: int, largest: int) -> int:
        """Return the points of a cluster in ``epoch`` (counted from 0), at most ``largest``.

        Examples:
            >>> [ClusterSchedule(double_every=2).size(epoch, 5) for epoch in range(8)]
            [1, 1, 2, 2, 4, 4, 5, 5]
        """
        doublings = min(epoch // self.double_every, 62)
        return min(self.start_size << doublings, largest)


class ClusteredBatches:
    """Cut training rows into batches by clusters of user states.

    A point is a user (``row_points`` names the user of each row) or, without ``row_points``, a row. The rows of a
    point are shuffled; round r of an epoch holds the r-th row of every point that has one, so that a batch does not
    fill up with one user's own items. Within a round the clusters come in random order, their points side by side. The
    rounds are cut into batches, and the batches come in random order. Every row comes up once an epoch.

    Source: NGAME, WSDM 2023 (Dahiya et al.), and sections 3.4 and 3.5 of the negative-sampling report. Difference: all
    rows are visited, where NGAME takes one random positive of a point in an epoch.

    Args:
        num_rows: training rows.
        batch_size: rows a batch; the last one may hold fewer.
        schedule: cluster sizes.
        seed: of the run; the order depends on seed and epoch alone, and on the clusters.
        row_points: the point of each row, int64 [rows], numbers from 0; None: each row is a point.

    Raises:
        InputError: if there are fewer points than clusters asked for, or clusters are larger than a batch.
    """

    def __init__(
        self,
        num_rows: int,
        batch_size: int,
        schedule: ClusterSchedule,
        *,
        seed: int,
        row_points: Int[Tensor, " rows"] | None = None,
    ) -> None:
        self.row_points = torch.arange(num_rows) if row_points is None else row_points
        self.points = self.row_points.unique()
        """The points that have rows, ascending."""
        self.num_points = len(self.points)
        if self.num_points < max(schedule.min_clusters, 2):
            raise InputError(
                f"clusters: {self.num_points} users give no {max(schedule.min_clusters, 2)} clusters; "
                "lower clusters.min_clusters, or train on more users (with one user there is nobody to learn from)"
            )
        if schedule.start_size > batch_size:
            raise InputError(
                f"clusters: {schedule.start_size} users of a cluster are more than the {batch_size} rows of a batch; "
                "raise training.batch_size or lower clusters.start_size"
            )
        self.batch_size = batch_size
        self.schedule = schedule
        self.seed = seed
        self.largest = min(batch_size, self.num_points // schedule.min_clusters)
        """Where the doubling stops: a cluster fits in a batch, and there are at least ``min_clusters``."""
        self.clusters: Tensor | None = None
        """Cluster of each point; None while clusters are single points."""
        self._size = 1
        self._epoch = -1

    def batches(self, epoch: int, states: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """Return the rows of each batch of ``epoch``, counted from 0, on the CPU.

        ``states`` gives the current vectors, [points, dim], of `points`; it is called only when they are clustered
        anew. Asked again for the same epoch, also after a resume, the clusters and the batches are the same.
        """
        if epoch != self._epoch:
            self._refresh(epoch, states)
        device = self.row_points.device
        generator = torch_generator(self.seed, "clustered order", epoch, device=device)
        shuffled = torch.randperm(len(self.row_points), generator=generator, device=device)
        shuffled = shuffled[self.row_points[shuffled].argsort(stable=True)]
        points = self.row_points[shuffled]
        turn = torch.arange(len(points), device=device) - torch.searchsorted(points, points)
        cluster = torch.searchsorted(self.points, points) if self.clusters is None else self.clusters[points]
        # A group is what comes up of a cluster in one turn. Its rows get one random place among those of the turn.
        width = int(cluster.max()) + 1
        groups, group = (turn * width + cluster).unique(return_inverse=True)
        place = groups // width + torch.rand(len(groups), generator=generator, device=device, dtype=torch.float64)
        batches = shuffled[place[group].argsort(stable=True)].cpu().split(self.batch_size)
        order = torch.randperm(len(batches), generator=generator, device=device)
        return [batches[number] for number in order.tolist()]

    def _refresh(self, epoch: int, states: Callable[[Tensor], Tensor]) -> None:
        size = self.schedule.size(epoch, self.largest)
        if size == 1:
            self.clusters = None
        elif self.clusters is None or size != self._size or epoch % self.schedule.refresh_every == 0:
            self.clusters = self._cluster(states(self.points), size, epoch)
        self._size, self._epoch = size, epoch

    def _cluster(self, vectors: Tensor, size: int, epoch: int) -> Tensor:
        """The cluster of each point by its number; numbers without rows are never looked up."""
        generator = torch_generator(self.seed, "clusters", epoch, device=vectors.device)
        found = balanced_kmeans(vectors, -(-self.num_points // size), generator=generator)
        clusters = torch.zeros(int(self.points[-1]) + 1, dtype=torch.int64, device=self.points.device)
        clusters[self.points] = found.to(clusters.device)
        return clusters

    def state_dict(self) -> dict[str, Tensor]:
        """Return the clusters in use, and the epoch in which they were last checked."""
        kept = {"place": torch.tensor([self._size, self._epoch])}
        return kept if self.clusters is None else {**kept, "clusters": self.clusters}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the clusters."""
        clusters = state.get("clusters")
        self.clusters = None if clusters is None else clusters.to(self.points.device)
        self._size, self._epoch = state["place"].tolist()
