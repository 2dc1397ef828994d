"""The pre-ranking protocol: which rows there are, what they may read, and what they must not know."""

from __future__ import annotations

import pytest
import torch

from twotower.core.errors import InputError
from twotower.core.records import FIRST_KNOWN
from twotower.data.log import Log
from twotower.data.pairs import pre_ranking_pairs


def lists(log):
    return {u: log.items[log.offsets[u] : log.offsets[u + 1]].tolist() for u in range(len(log.offsets) - 1)}


def rows_of(rows):
    batch = rows.cut(torch.arange(len(rows)))
    history = [[item for item in row if item] for row in batch.users.history.tolist()]
    return list(zip(batch.users.ids.tolist(), history, batch.items.ids.tolist(), batch.labels.tolist(), strict=True))


def test_the_last_event_is_tested_and_the_earlier_ones_trained(tiny_dataset):
    split = pre_ranking_pairs(tiny_dataset, reading="all", validation_share=0.0)
    events = {user: items for user, items in lists(tiny_dataset.log).items() if len(items) > 1}
    positives = [(user, history, item) for user, history, item, label in rows_of(split.test) if label]
    assert positives == [(user, items[:-1], items[-1]) for user, items in events.items()]
    positives = [(user, history, item) for user, history, item, label in rows_of(split.train) if label]
    expected = [(user, items[:t], items[t]) for user, items in events.items() for t in range(1, len(items) - 1)]
    assert positives == expected
    assert len(split.validation) == 0


def test_the_last_reading_knows_a_user_by_its_last_events(tiny_dataset):
    split = pre_ranking_pairs(tiny_dataset, reading="last", history_length=3, validation_share=0.0)
    for user, history, item, label in rows_of(split.train) + rows_of(split.test):
        if label:
            events = lists(tiny_dataset.log)[user][-3:]
            assert history == events[: len(history)]
            assert item == events[len(history)]


def test_history_is_cut_to_its_latest(tiny_dataset):
    split = pre_ranking_pairs(tiny_dataset, reading="all", history_length=2)
    assert max(len(history) for _, history, _, _ in rows_of(split.test)) == 2
    assert split.test.cut(torch.arange(2)).users.history.shape[1] == 2


@pytest.mark.parametrize("reading", ["last", "all"])
@pytest.mark.parametrize("validation", ["random", "time"])
def test_no_row_reads_its_own_event_or_a_later_one(tiny_dataset, reading, validation):
    split = pre_ranking_pairs(tiny_dataset, reading=reading, validation=validation, history_length=4)
    for part in (split.train, split.validation, split.test):
        for (user, history, item, label), end in zip(rows_of(part), part.ends.tolist(), strict=True):
            start = int(part.log.offsets[user])
            before = part.log.items[start:end].tolist()
            assert history == before[-4:]
            assert history
            if label:
                assert item == int(part.log.items[end])
            assert part.cut(torch.tensor([0])).users.history_times is not None


def test_training_negatives_tell_nothing_of_the_test_item():
    """If training negatives avoided a user's test item, an item never drawn for it would be the likely answer."""
    from twotower.core.schema import Schema
    from twotower.data.dataset import Dataset

    # Items 2 to 7, of which 7 has no event. One user trains on 2, 3, 4 many times and is tested on 5; another met 6.
    log = Log(torch.tensor([0, 0, 0, 61, 62]), torch.tensor([2, 3, 4] * 20 + [5, 6]))
    dataset = Dataset(Schema(4, 8), log, {}, {}, {})
    split = pre_ranking_pairs(dataset, reading="all", validation_share=0.0)
    drawn = split.train.items[split.train.labels == 0]
    assert sorted(drawn.unique().tolist()) == [5, 6]
    assert split.test.items.tolist() == [5, 6]


@pytest.mark.parametrize("reading", ["last", "all"])
def test_negatives_are_unseen_in_the_whole_history(tiny_dataset, reading):
    """Also where the reading keeps only the last events: what was cut away was still seen."""
    for seed in range(20):
        split = pre_ranking_pairs(tiny_dataset, reading=reading, history_length=2, seed=seed)
        for part, until in ((split.train, -1), (split.validation, -1), (split.test, None)):
            for user, _, item, label in rows_of(part):
                if not label:
                    assert item not in lists(tiny_dataset.log)[user][:until]
                    assert FIRST_KNOWN <= item < tiny_dataset.schema.num_items


def test_a_positive_and_its_negative_stay_together(tiny_dataset):
    split = pre_ranking_pairs(tiny_dataset, reading="all", validation_share=0.3)
    for part in split[:3]:
        labels, ends = part.labels.view(-1, 2), part.ends.view(-1, 2)
        assert (labels == torch.tensor([1.0, 0.0])).all()
        assert (ends[:, 0] == ends[:, 1]).all()


def test_validation_share(tiny_dataset):
    none = pre_ranking_pairs(tiny_dataset, reading="all", validation_share=0.0)
    some = pre_ranking_pairs(tiny_dataset, reading="all", validation_share=0.3)
    assert len(some.validation) == 2 * round(0.3 * len(none.train) / 2)
    assert len(some.validation) + len(some.train) == len(none.train)
    assert "history of a later training row" in some.leaks


def test_validation_by_time_comes_after_training(tiny_dataset):
    split = pre_ranking_pairs(tiny_dataset, reading="all", validation="time", validation_share=0.5)
    latest = {}
    for user, end in zip(split.train.users.tolist(), split.train.ends.tolist(), strict=True):
        latest[user] = max(end, latest.get(user, -1))
    assert len(split.validation)
    for user, end in zip(split.validation.users.tolist(), split.validation.ends.tolist(), strict=True):
        assert end > latest.get(user, -1)
    assert "after all of its training rows" in split.leaks


def test_one_seed_one_split(tiny_dataset):
    one, same, other = (pre_ranking_pairs(tiny_dataset, reading="all", seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one.train.items, same.train.items)
    assert torch.equal(one.validation.ends, same.validation.ends)
    assert not torch.equal(one.test.items, other.test.items) or not torch.equal(
        one.validation.ends, other.validation.ends
    )


def test_labelled_logs_give_their_positives(tiny_dataset):
    labels = torch.ones(tiny_dataset.log.num_events)
    labels[4] = 0.0  # the last event of user 2
    labelled = tiny_dataset.with_log(tiny_dataset.log._replace(labels=labels))
    tested = {user: item for user, _, item, label in rows_of(pre_ranking_pairs(labelled).test) if label}
    assert tested[2] == int(tiny_dataset.log.items[3])


@pytest.mark.parametrize("reading", ["last", "all"])
def test_fresh_negatives_change_with_every_cut_and_nothing_else_does(tiny_dataset, reading):
    fixed, fresh = (
        pre_ranking_pairs(tiny_dataset, reading=reading, negatives=kind, validation_share=0.3)
        for kind in ("fixed", "fresh")
    )
    for name in ("validation", "test"):
        assert rows_of(getattr(fixed, name)) == rows_of(getattr(fresh, name))
    positives = [row for row in rows_of(fixed.train) if row[3]]
    drawn = set()
    for _ in range(20):
        rows = rows_of(fresh.train)
        assert [row for row in rows if row[3]] == positives
        for user, _, item, label in rows:
            if not label:
                assert item not in lists(tiny_dataset.log)[user][:-1]
                drawn.add((user, item))
    assert len(drawn) > len({(row[0], row[2]) for row in rows_of(fixed.train) if not row[3]})


@pytest.mark.bad_input
def test_bad_input(tiny_dataset):
    with pytest.raises(InputError, match="did you mean 'last'"):
        pre_ranking_pairs(tiny_dataset, reading="lst")
    with pytest.raises(InputError, match="did you mean 'random'"):
        pre_ranking_pairs(tiny_dataset, validation="randm")
    with pytest.raises(InputError, match="did you mean 'fresh'"):
        pre_ranking_pairs(tiny_dataset, negatives="frsh")
    with pytest.raises(InputError, match="validation_share must be in"):
        pre_ranking_pairs(tiny_dataset, validation_share=1.0)
    with pytest.raises(InputError, match="no user has two positives"):
        pre_ranking_pairs(tiny_dataset.with_log(Log(torch.tensor([0, 0, 0, 1, 1, 1, 1, 1]), torch.tensor([3]))))
    everything = Log(torch.tensor([0, 0, 0, 8, 8, 8, 8, 8]), torch.arange(2, 10))
    with pytest.raises(InputError, match="has met every item"):
        pre_ranking_pairs(tiny_dataset.with_log(everything))
