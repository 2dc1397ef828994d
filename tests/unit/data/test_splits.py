"""Splits against the same rules written as loops over users."""

import math
import random

import pytest
import torch

from twotower.core.errors import InputError
from twotower.data.log import Log
from twotower.data.splitters import SPLITTERS, split_log


def make_log(seed=0, *, labels=True, users=23):
    """Users with 0 to 12 events in time order, ties in time, repeated items; rows 0 and 1 own none."""
    draw = random.Random(seed)
    lengths = [0, 0, *(draw.choice([0, 1, 1, 2, 3, 5, 12]) for _ in range(users))]
    items = [draw.randrange(2, 9) for _ in range(sum(lengths))]
    times = [t for n in lengths for t in sorted(draw.randrange(40) for _ in range(n))]
    marks = [float(draw.random() < 0.7) for _ in items] if labels else None
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    return Log(
        offsets,
        torch.tensor(items, dtype=torch.int64),
        torch.tensor(times, dtype=torch.int64),
        None if marks is None else torch.tensor(marks),
    )


def rows(log):
    """Each user's events as (item, time, label), in lists."""
    result = []
    for user in range(len(log.offsets) - 1):
        events = []
        for place in range(int(log.offsets[user]), int(log.offsets[user + 1])):
            label = 1.0 if log.labels is None else float(log.labels[place])
            events.append((int(log.items[place]), int(log.times[place]), label))
        result.append(events)
    return result


def before_positive(events, number):
    """The events, of whatever label, before the positive of this number (0 is the first)."""
    kept, met = [], 0
    for event in events:
        met += event[2] >= 0.5
        if met <= number:
            kept.append(event)
    return kept


def slow_last_n(log, n):
    train, valid_history, valid_truth, history, truth = [], [], [], [], []
    for events in rows(log):
        positives = [event for event in events if event[2] >= 0.5]
        held = 2 * n if len(positives) > 2 * n else n if len(positives) > n else 0
        left = len(positives) - held
        train.append(before_positive(events, left))
        valid_history.append(before_positive(events, left) if held == 2 * n else [])
        valid_truth.append(positives[left : left + n] if held == 2 * n else [])
        history.append(before_positive(events, len(positives) - n) if held else [])
        truth.append(positives[len(positives) - n :] if held else [])
    return train, valid_history, valid_truth, history, truth


def parts(split):
    return (
        rows(split.train),
        rows(split.validation.history),
        rows(split.validation.truth),
        rows(split.test.history),
        rows(split.test.truth),
    )


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_last_n_matches_a_loop(n, labels):
    log = make_log(n, labels=labels)
    split = split_log(log, "last-n", n=n)
    assert parts(split) == slow_last_n(log, n)
    assert (split.train.labels is None) == (not labels)


def test_leave_one_out_is_last_one_and_says_who_is_only_trained_on():
    log = make_log(4, labels=False)
    split = split_log(log, "leave_one_out")
    assert parts(split) == slow_last_n(log, 1)
    single = sum(len(events) == 1 for events in rows(log))
    assert single > 0
    assert f"{single} users with 1 or fewer positives are only trained on" in split.leaks


@pytest.mark.parametrize("labels", [True, False])
def test_global_time_matches_a_loop(labels):
    log = make_log(6, labels=labels)
    first, second = 20, 30
    expected = ([], [], [], [], [])
    for events in rows(log):
        positives = [event for event in events if event[2] >= 0.5]
        valid = [event for event in positives if first <= event[1] < second]
        test = [event for event in positives if event[1] >= second]
        expected[0].append([event for event in events if event[1] < first])
        expected[1].append([event for event in events if event[1] < first] if valid else [])
        expected[2].append(valid)
        expected[3].append([event for event in events if event[1] < second] if test else [])
        expected[4].append(test)
    assert parts(split_log(log, "global-time", validation_from=first, test_from=second)) == expected


def test_global_time_shares_are_of_the_positives():
    log = make_log(7, users=400)
    split = split_log(log, "global-time", validation_share=0.2, test_share=0.1)
    total = log.positives().num_events
    assert split.test.truth.num_events / total == pytest.approx(0.1, abs=0.03)
    assert split.validation.truth.num_events / total == pytest.approx(0.2, abs=0.04)
    assert split.train.times.max() < split.validation.truth.times.min()
    assert split.validation.truth.times.max() < split.test.truth.times.min()


def test_by_user_holds_out_whole_users_and_folds_in_their_first_events():
    log = make_log(8, users=300)
    split = split_log(log, "by-user", ratio=[6, 2, 2], fold_in=0.6, seed=3)
    held = 0
    for events, train, *targets in zip(rows(log), *parts(split), strict=True):
        positives = [event for event in events if event[2] >= 0.5]
        pairs = [(targets[0], targets[1]), (targets[2], targets[3])]
        asked = [pair for pair in pairs if pair[1]]
        assert train == ([] if asked else events)
        assert len(asked) <= 1
        for history, truth in asked:
            known = min(max(1, math.floor(0.6 * len(positives))), len(positives) - 1)
            assert (history, truth) == (before_positive(events, known), positives[known:])
            held += 1
    able = sum(len([e for e in events if e[2] >= 0.5]) >= 2 for events in rows(log))
    assert held == able - round(able * 0.6)


@pytest.mark.bad_input
def test_by_user_refuses_a_seed_that_draws_nothing():
    with pytest.raises(InputError, match='seed = 4 is of held_out = "drawn"'):
        split_log(make_log(8, users=30), "by-user", held_out="last", seed=4)


def test_of_cold_users_nothing_is_known_and_every_positive_is_asked_for():
    log = make_log(8, users=300)
    split = split_log(log, "cold-users", ratio=[6, 2, 2], seed=3)
    held = 0
    for events, train, *targets in zip(rows(log), *parts(split), strict=True):
        positives = [event for event in events if event[2] >= 0.5]
        asked = [truth for truth in (targets[1], targets[3]) if truth]
        assert not targets[0]
        assert not targets[2], "not even a shown item that was not taken"
        assert train == ([] if asked else events)
        assert asked in ([], [positives])
        held += len(asked)
    able = int((log.positives().lengths > 0).sum())
    assert held == able - round(able * 0.6)
    assert rows(split.known) == [[] if test else all_ for all_, test in zip(rows(log), parts(split)[4], strict=True)]


def test_random_ratio_gives_each_event_to_one_part():
    log = make_log(9, users=500)
    split = split_log(log, "random-ratio", ratio=[7, 2, 1], seed=1)
    total = log.positives().num_events
    parts_of = (split.train.positives(), split.validation.truth, split.test.truth)
    assert sum(part.num_events for part in parts_of) == total
    for part, share in zip(parts_of, (0.7, 0.2, 0.1), strict=True):
        assert part.num_events / total == pytest.approx(share, abs=0.03)
    for user, events in enumerate(rows(log.positives())):
        together = sorted(event for part in parts_of for event in rows(part)[user])
        assert together == sorted(events)
        if user > 60:
            break
    asked = split.test.truth.lengths > 0
    known = split.train.positives().lengths + split.validation.truth.lengths
    assert torch.equal(split.test.history.positives().lengths, torch.where(asked, known, 0))
    assert torch.equal(split.test.history.lengths, torch.where(asked, split.known.lengths, 0)), "of whatever label"


@pytest.mark.parametrize("kind", sorted(SPLITTERS))
def test_each_split_says_what_leaks_and_repeats_with_its_seed(kind):
    log = make_log(10, users=200)
    split = split_log(log, kind)
    assert len(split.leaks) > 40
    assert parts(split) == parts(split_log(log, kind))
    assert split.test.truth.labels is None
    assert (split.test.truth.lengths[split.test.users()] > 0).all()


def test_another_seed_draws_other_users():
    log = make_log(11, users=200)
    for kind in ("by-user", "cold-users"):
        one, two = (split_log(log, kind, seed=seed).test.users() for seed in (1, 2))
        assert not torch.equal(one, two)


def test_the_last_rows_are_held_out_where_that_is_asked_for():
    log = make_log(11, users=200)
    split = split_log(log, "by-user", held_out="last", ratio=[6, 2, 2], fold_in=0.999)
    able = (log.positives().lengths >= 2).nonzero()[:, 0]
    first, second = round(len(able) * 0.6), round(len(able) * 0.8)
    assert torch.equal(split.validation.users(), able[first:second])
    assert torch.equal(split.test.users(), able[second:])
    assert (split.test.truth.lengths[able[second:]] == 1).all()


def test_nobody_with_enough_events_is_an_error():
    log = Log(torch.tensor([0, 0, 0, 1, 2]), torch.tensor([2, 3]), torch.tensor([5, 6]))
    for kind in ("leave-one-out", "by-user"):
        with pytest.raises(InputError, match="split"):
            split_log(log, kind)
    with pytest.raises(InputError, match="no user has more than 12 positive events"):
        split_log(make_log(users=60), "last-n", n=12)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("leave-one-in", {}, "did you mean 'leave-one-out'?"),
        ("last-n", {"k": 3}, "unknown option 'k'"),
        ("leave-one-out", {"n": 3}, "unknown option 'n'"),
        ("last-n", {"n": 0}, "at least 1"),
        ("global-time", {"test_share": 1.5}, "test_share must be a number between 0 and 1"),
        ("global-time", {"test_from": 10**6}, "without positives"),
        ("by-user", {"ratio": [8, 2]}, "three positive numbers"),
        ("by-user", {"fold_in": 1.0}, "fold_in"),
        ("by-user", {"fold_in": 0.0}, "fold_in must be a number between 0 and 1"),
        ("by-user", {"held_out": "first"}, 'held_out must be "drawn" or "last"'),
        ("cold-users", {"held_out": "last"}, "unknown option 'held_out'"),
        ("cold-users", {"ratio": [8, 0, 1]}, "three positive numbers"),
        ("random-ratio", {"ratio": "8:1:1"}, "three positive numbers"),
    ],
)
def test_a_wrong_setting_is_named(kind, options, words):
    with pytest.raises(InputError) as error:
        split_log(make_log(users=60), kind, **options)
    assert words in str(error.value)


def test_global_time_needs_a_clock():
    with pytest.raises(InputError, match="no times"):
        split_log(make_log()._replace(times=None), "global-time")
