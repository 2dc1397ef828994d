"""Balanced clustering: sizes, quality against a plain reference, one split against the formula."""

import pytest
import torch

from twotower.core.errors import InputError
from twotower.ops.balanced_kmeans import balanced_kmeans


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("points", "clusters"), [(1, 1), (7, 7), (8, 2), (9, 2), (10, 3), (23, 5), (101, 6), (64, 16), (37, 36), (1000, 33)]
)
def test_every_point_has_a_cluster_and_sizes_differ_by_one_at_most(points, clusters):
    labels = balanced_kmeans(torch.randn(points, 3, generator=generator()), clusters, generator=generator())
    sizes = labels.bincount(minlength=clusters).tolist()
    assert len(sizes) == clusters
    assert set(sizes) <= {points // clusters, -(-points // clusters)}
    assert sum(sizes) == points


@pytest.mark.parametrize("clusters", [2, 3, 8, 13])
def test_equal_points_are_still_spread_evenly(clusters):
    sizes = balanced_kmeans(torch.ones(100, 4), clusters, generator=generator()).bincount(minlength=clusters)
    assert int(sizes.max() - sizes.min()) <= 1


def test_groups_that_lie_apart_come_out_whole():
    centres = 100.0 * torch.randn(8, 5, generator=generator(1))
    group = torch.arange(8).repeat(12)
    points = centres[group] + torch.randn(96, 5, generator=generator(2))
    labels = balanced_kmeans(points, 8, generator=generator(3), iterations=10)
    # A split may cut through a group; most clusters hold one group and nothing else.
    whole = sum(len(group[labels == cluster].unique()) == 1 for cluster in range(8))
    assert whole >= 6


def slow_split(points, left, one, other, iterations):
    """One balanced split in Python floats: order by the difference of squared distances, cut, take means."""

    def squared(a, b):
        return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))

    first, second = points[one], points[other]
    for _ in range(iterations):
        order = sorted(range(len(points)), key=lambda i: squared(points[i], first) - squared(points[i], second))
        sides = order[:left], order[left:]
        first, second = ([sum(points[i][d] for i in side) / len(side) for d in range(len(first))] for side in sides)
    return set(sides[0])


@pytest.mark.parametrize(("points", "seed"), [(9, 0), (10, 1), (31, 2)])
def test_one_split_matches_the_slow_form(points, seed):
    vectors = torch.randn(points, 4, generator=generator(seed), dtype=torch.float64)
    draw = torch.rand(2, 1, generator=generator(seed), dtype=torch.float64)
    one = int(draw[0] * points)
    other = (one + 1 + int(draw[1] * (points - 1))) % points
    expected = slow_split(vectors.tolist(), (points + 1) // 2, one, other, 4)
    labels = balanced_kmeans(vectors, 2, generator=generator(seed), iterations=4)
    assert set((labels == 0).nonzero()[:, 0].tolist()) == expected


def within(points, labels):
    """Mean squared distance to the mean of one's cluster."""
    total = 0.0
    for cluster in labels.unique():
        members = points[labels == cluster]
        total += float((members - members.mean(0)).square().sum())
    return total / len(points)


def test_clusters_are_tighter_than_random_ones_and_repetitions_help():
    points = torch.randn(600, 2, generator=generator(5))
    random = within(points, torch.arange(600) % 30)
    once = within(points, balanced_kmeans(points, 30, generator=generator(6), iterations=1))
    often = within(points, balanced_kmeans(points, 30, generator=generator(6), iterations=8))
    assert once < 0.25 * random
    assert often < once


def test_the_same_generator_gives_the_same_clusters():
    points = torch.randn(50, 3, generator=generator())
    first, second = (balanced_kmeans(points, 7, generator=generator(4)) for _ in range(2))
    assert torch.equal(first, second)


def test_half_precision_points_are_clustered_in_float32():
    points = torch.randn(40, 3, generator=generator()).bfloat16()
    expected = balanced_kmeans(points.float(), 5, generator=generator(1))
    assert torch.equal(balanced_kmeans(points, 5, generator=generator(1)), expected)


def test_bad_input_is_one_clear_line():
    points = torch.randn(10, 3)
    with pytest.raises(InputError, match="11 clusters of 10 points"):
        balanced_kmeans(points, 11)
    with pytest.raises(InputError, match="0 clusters"):
        balanced_kmeans(points, 0)
    with pytest.raises(InputError, match="iterations"):
        balanced_kmeans(points, 2, iterations=0)
    points[3, 1] = float("nan")
    with pytest.raises(InputError, match="1 of 10 vectors hold NaN"):
        balanced_kmeans(points, 2)
