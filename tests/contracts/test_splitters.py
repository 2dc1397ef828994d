"""What every splitter keeps to; one named in `SPLITTERS` is a member by its line there."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from twotower.core.errors import InputError
from twotower.data.log import Log
from twotower.data.split import Split
from twotower.data.splitters import SPLITTERS, last_n

USERS = 40


def of_ones_own(log: Log) -> Split:
    """As somebody outside writes one."""
    return last_n(log, n=2)


MEMBERS: dict[str, Callable[..., Split]] = {**{name: SPLITTERS.get(name) for name in SPLITTERS}, "own": of_ones_own}


def made_log(*, labels: bool) -> Log:
    """Every event has a time of its own, so that it can be told from the others; rows 0 and 1 have none."""
    draw = torch.Generator().manual_seed(5)
    lengths = torch.cat([torch.zeros(2, dtype=torch.int64), torch.randint(1, 30, (USERS,), generator=draw)])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    events = int(offsets[-1])
    items = torch.randint(2, 25, (events,), generator=draw)
    times = torch.cat([torch.randperm(10_000, generator=draw)[:n].sort().values for n in lengths.tolist()])
    times = times * events + torch.arange(events)
    liked = (torch.rand(events, generator=draw) < 0.7).float() if labels else None
    return Log(offsets, items, times=1_000_000_000 + times, labels=liked)


def events(log: Log) -> set[tuple[int, int, int]]:
    """User, item and time of each event."""
    return set(zip(log.users().tolist(), log.items.tolist(), log.times.tolist(), strict=True))


@pytest.fixture(params=[False, True], ids=["plain", "labels"])
def log(request: pytest.FixtureRequest) -> Log:
    return made_log(labels=request.param)


@pytest.fixture(params=MEMBERS)
def splitter(request: pytest.FixtureRequest) -> Callable[..., Split]:
    return MEMBERS[request.param]


@pytest.fixture
def split(splitter: Callable[..., Split], log: Log) -> Split:
    return splitter(log)


class TestSplitter:
    """One class for all."""

    def test_every_event_is_in_one_part_at_most(self, split, log):
        parts = [events(part) for part in (split.train, split.validation.truth, split.test.truth)]
        assert all(parts), "each part has events"
        assert sum(map(len, parts)) == len(set.union(*parts))
        assert set.union(*parts) <= events(log)

    def test_nothing_of_a_truth_stands_in_its_history_or_in_training(self, split):
        for targets in (split.validation, split.test):
            assert not events(targets.truth) & events(targets.history)
            assert not events(targets.truth) & events(split.train)

    def test_what_is_known_before_the_test_holds_the_training_and_none_of_the_test(self, split):
        assert events(split.train) <= events(split.known)
        assert not events(split.test.truth) & events(split.known)

    def test_truths_are_positives(self, split, log):
        liked = events(log.positives())
        assert events(split.validation.truth) | events(split.test.truth) <= liked
        assert (split.train.labels is None) == (log.labels is None), "training and histories keep labels"
        assert log.labels is None or (split.train.labels < 0.5).any()

    def test_every_part_covers_the_same_user_rows_in_the_order_of_time(self, split, log):
        for part in (split.train, split.known, *split.validation, *split.test):
            assert len(part.lengths) == len(log.lengths)
            order = part.users() * 10**12 + part.times
            assert (order.diff() > 0).all()

    def test_a_history_is_of_those_who_are_asked(self, split):
        for targets in (split.validation, split.test):
            asked = set(targets.users().tolist())
            assert asked == set(targets.truth.users().tolist())
            assert set(targets.history.users().tolist()) <= asked

    def test_the_log_stays_as_it_was_and_the_same_split_comes_again(self, splitter, log):
        before = [column.clone() for column in log if column is not None]
        one, other = splitter(log), splitter(log)
        assert all(torch.equal(a, b) for a, b in zip(before, (c for c in log if c is not None), strict=True))
        assert events(one.train) == events(other.train)
        assert events(one.test.truth) == events(other.test.truth)

    def test_says_in_words_what_leaks(self, split):
        assert len(split.leaks.split()) > 3

    def test_a_log_that_cannot_be_cut_is_one_line(self, splitter):
        with pytest.raises(InputError) as caught:
            splitter(Log(torch.tensor([0, 0, 0, 1]), torch.tensor([2]), times=torch.tensor([5])))
        assert "\n" not in str(caught.value)


def keeps_the_test_in_training(log: Log) -> Split:
    return last_n(log, n=1)._replace(train=log)


def test_a_splitter_that_leaks_is_found_out():
    contract, split = TestSplitter(), keeps_the_test_in_training(made_log(labels=False))
    with pytest.raises(AssertionError):
        contract.test_nothing_of_a_truth_stands_in_its_history_or_in_training(split)
