import pytest
import torch

from twotower.data.log import Log


def as_events(log: Log) -> list[tuple]:
    columns = [column.tolist() for column in log if column is not None and column is not log.offsets]
    return list(zip(log.users().tolist(), *columns, strict=True))


def test_counts_lengths_and_users(tiny_log):
    assert tiny_log.num_events == 18
    assert tiny_log.lengths.tolist() == [0, 0, 5, 1, 4, 2, 6]
    assert tiny_log.users().tolist() == [2] * 5 + [3] + [4] * 4 + [5] * 2 + [6] * 6


@pytest.mark.parametrize("keep", ["some", "all", "none", "one user"])
def test_select_keeps_order_users_and_columns_together(tiny_log, keep):
    log = tiny_log._replace(labels=torch.linspace(0, 1, 18))
    mask = {
        "some": log.items % 2 == 0,
        "all": torch.ones(18, dtype=torch.bool),
        "none": torch.zeros(18, dtype=torch.bool),
        "one user": log.users() == 4,
    }[keep]
    chosen = log.select(mask)
    assert as_events(chosen) == [event for event, kept in zip(as_events(log), mask.tolist(), strict=True) if kept]
    assert len(chosen.offsets) == len(log.offsets)
    assert chosen.offsets.dtype == torch.int64


def test_select_on_an_empty_log():
    empty = Log(torch.zeros(4, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    assert empty.select(torch.zeros(0, dtype=torch.bool)).offsets.tolist() == [0, 0, 0, 0]
    assert empty.users().tolist() == []


def test_positives_drop_labels_below_one_half_and_missing_ones(tiny_log):
    labels = torch.zeros(18)
    labels[3], labels[6], labels[9], labels[17] = 1.0, 0.5, 0.49, float("nan")
    positives = tiny_log._replace(labels=labels).positives()
    assert as_events(positives) == [as_events(tiny_log)[3], as_events(tiny_log)[6]]
    assert positives.labels is None
    assert tiny_log.positives() is tiny_log


def test_moving_keeps_what_is_missing_missing(tiny_log):
    moved = tiny_log.to("cpu")
    assert moved.labels is None
    assert torch.equal(moved.items, tiny_log.items)
