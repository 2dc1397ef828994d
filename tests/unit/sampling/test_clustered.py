"""NGAME's batches: what an epoch visits, who meets in a batch, when users are clustered anew."""

import pytest
import torch

from twotower.core.errors import InputError
from twotower.training.clustered import ClusteredBatches, ClusterSchedule


def users_of(counts):
    """The user of each row, shuffled; users are numbered from 2, as in a log."""
    owners = torch.repeat_interleave(torch.arange(len(counts)) + 2, torch.tensor(counts))
    return owners[torch.randperm(len(owners), generator=torch.Generator().manual_seed(0))]


def line(number):
    """User states in a line, so that neighbours have neighbouring numbers."""
    return torch.arange(number, dtype=torch.float32)[:, None]


def test_every_row_comes_up_once_an_epoch():
    owners = users_of([5, 1, 7, 3, 2, 9, 4, 4, 6, 1, 2, 3])
    order = ClusteredBatches(len(owners), 10, ClusterSchedule(2, min_clusters=3), seed=1, row_points=owners)
    for epoch in range(3):
        batches = order.batches(epoch, lambda points: line(14)[points])
        assert torch.cat(batches).sort().values.tolist() == list(range(len(owners)))
        assert sorted(map(len, batches))[1:] == [10] * (len(batches) - 1)


def test_clusters_stay_together_and_a_user_comes_up_once_a_round():
    owners = users_of([3] * 64)
    order = ClusteredBatches(192, 16, ClusterSchedule(8, min_clusters=4), seed=1, row_points=owners)
    place = torch.cat(
        [torch.zeros(2, dtype=torch.int64), torch.randperm(64, generator=torch.Generator().manual_seed(2))]
    )
    batches = order.batches(0, lambda points: line(64)[place][points])
    assert len(batches) == 12
    for rows in batches:
        users = owners[rows]
        assert len(users.unique()) == 16
        clusters, sizes = order.clusters[users].unique(return_counts=True)
        assert sizes.tolist() == [8, 8]
        for cluster in clusters:
            members = place[users[order.clusters[users] == cluster]]
            assert members.max() - members.min() == 7  # neighbours on the line


def test_size_one_is_plain_shuffling_without_states():
    def never(points):
        raise AssertionError("states are not needed")

    order = ClusteredBatches(40, 8, ClusterSchedule(), seed=1)
    first, second = order.batches(0, never), order.batches(1, never)
    assert torch.cat(first).tolist() != torch.cat(second).tolist()
    assert [part.tolist() for part in order.batches(0, never)] == [part.tolist() for part in first]


def test_clusters_are_made_when_due_and_when_the_size_changes():
    asked = []
    order = ClusteredBatches(100, 50, ClusterSchedule(1, double_every=4, refresh_every=3, min_clusters=5), seed=1)
    for epoch in range(14):

        def states(points, epoch=epoch):
            asked.append(epoch)
            return line(100)[points]

        order.batches(epoch, states)
    # Size 2 from epoch 4, 4 from 8, 8 from 12; every third epoch in between.
    assert asked == [4, 6, 8, 9, 12]
    assert order.clusters.unique(return_counts=True)[1].tolist() == [8] * 9 + [7] * 4


def test_the_size_stops_at_the_batch_and_at_the_fewest_clusters():
    assert ClusteredBatches(1000, 16, ClusterSchedule(), seed=1).largest == 16
    assert ClusteredBatches(1000, 512, ClusterSchedule(min_clusters=10), seed=1).largest == 100


def test_the_order_resumes_with_the_same_clusters():
    schedule = ClusterSchedule(4, refresh_every=5, min_clusters=5)
    whole, resumed = (ClusteredBatches(60, 12, schedule, seed=1) for _ in range(2))
    first = [rows.tolist() for rows in whole.batches(0, lambda points: line(60)[points])]
    resumed.load_state_dict({name: part.clone() for name, part in whole.state_dict().items()})
    # In the middle of an epoch that began with a clustering, the users are not clustered again.
    assert [rows.tolist() for rows in resumed.batches(0, lambda points: points[:0])] == first
    expected = [rows.tolist() for rows in whole.batches(1, lambda points: points[:0])]
    assert [rows.tolist() for rows in resumed.batches(1, lambda points: points[:0])] == expected


def test_bad_input_is_one_clear_line():
    with pytest.raises(InputError, match="1 users give no 10 clusters"):
        ClusteredBatches(5, 4, ClusterSchedule(), seed=1, row_points=torch.full((5,), 2))
    with pytest.raises(InputError, match="1 users give no 2 clusters"):
        ClusteredBatches(5, 4, ClusterSchedule(min_clusters=1), seed=1, row_points=torch.full((5,), 2))
    with pytest.raises(InputError, match="32 users of a cluster are more than the 16 rows of a batch"):
        ClusteredBatches(1000, 16, ClusterSchedule(32), seed=1)
    with pytest.raises(InputError, match="clusters.double_every must be at least 1"):
        ClusterSchedule(double_every=0)
    order = ClusteredBatches(40, 8, ClusterSchedule(4, min_clusters=2), seed=1)
    broken = line(40)
    broken[7] = float("nan")
    with pytest.raises(InputError, match="1 of 40 vectors hold NaN"):
        order.batches(0, lambda points: broken[points])
