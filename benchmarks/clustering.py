"""Balanced clustering of user states: seconds against the number of users, cluster sizes, and tightness.

``--device cuda`` times a GPU. Points lie in random groups on the unit sphere, as trained user states do. Tightness is
the mean squared distance to the mean of a cluster, as a share of the same for random clusters of those sizes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import common
from twotower.ops.balanced_kmeans import balanced_kmeans

QUICK_SIZES = (1_000, 10_000, 50_000)
SIZES = (1_000, 10_000, 100_000, 1_000_000)
GROUPS = 500


def states(users: int, dim: int, device: str) -> Tensor:
    """Unit vectors around random centres."""
    generator = torch.Generator(device=device).manual_seed(users)
    centres = torch.randn(GROUPS, dim, generator=generator, device=device)
    group = torch.randint(GROUPS, (users,), generator=generator, device=device)
    vectors = centres[group] + torch.randn(users, dim, generator=generator, device=device)
    return torch.nn.functional.normalize(vectors, dim=1)


def spread(vectors: Tensor, labels: Tensor, clusters: int) -> float:
    """Mean squared distance to the mean of one's cluster."""
    sums = torch.zeros(clusters, vectors.shape[1], device=vectors.device).index_add_(0, labels, vectors)
    means = sums / labels.bincount(minlength=clusters)[:, None]
    return float((vectors - means[labels]).square().sum(1).mean())


def one_size(users: int, cluster_size: int, dim: int, device: str, repeats: int) -> dict[str, Any]:
    vectors = states(users, dim, device)
    clusters = -(-users // cluster_size)
    cpu, wall = [], []
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for repeat in range(repeats + 1):  # the first warms up
        with common.Clock() as clock:
            labels = balanced_kmeans(vectors, clusters, generator=torch.Generator(device=device).manual_seed(repeat))
        cpu.append(clock.cpu)
        wall.append(clock.wall)
    sizes = labels.bincount(minlength=clusters)
    shuffled = labels[torch.randperm(users, device=device)]
    return {
        "users": users,
        "clusters": clusters,
        "cpu_seconds": min(cpu[1:]),
        "wall_seconds": min(wall[1:]),
        "wall_seconds_all": wall,
        "smallest": int(sizes.min()),
        "largest": int(sizes.max()),
        "tightness": spread(vectors, labels, clusters) / spread(vectors, shuffled, clusters),
        "gpu_mib": torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else None,
    }


def main() -> None:
    made = common.parser(__doc__)
    made.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    made.add_argument("--users", type=int, nargs="*", help="sizes to measure instead")
    made.add_argument("--cluster-sizes", type=int, nargs="*", default=[2, 64])
    made.add_argument("--dim", type=int, default=128)
    made.add_argument("--repeats", type=int, default=3)
    options = common.parse(made)
    sizes = options.users or (QUICK_SIZES if options.quick else SIZES)
    if options.device == "cpu" and not options.users and not options.quick:
        sizes = SIZES[:-1]
    rows = [
        one_size(users, cluster_size, options.dim, options.device, options.repeats)
        for users in sizes
        for cluster_size in options.cluster_sizes
    ]
    name = "clustering" if options.device == "cpu" else "clustering_gpu"
    common.finish(
        name,
        options,
        settings={"dim": options.dim, "groups": GROUPS, "repeats": options.repeats, "device": options.device},
        figures={"by_users": rows},
    )


if __name__ == "__main__":
    main()
