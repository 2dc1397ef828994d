"""Ties: events of one second, in the order of the file or in one that is drawn."""

from __future__ import annotations

import pytest
import torch

from twotower.core.errors import InputError
from twotower.data.log import Log
from twotower.data.prepare.spec import Spec
from twotower.data.splitters import split_log
from twotower.data.ties import Ties, ties_drawn, ties_of

USERS = 300


def planted() -> Log:
    """Everybody has items 2, 3, 4, 5; 4 and 5 bear one second. The last user's four events bear four."""
    lengths = torch.tensor([0, 0, *[4] * USERS])
    times = torch.tensor([100, 200, 300, 300]).repeat(USERS)
    times[-1] = 301
    labels = torch.tensor([1.0, 0.0, 1.0, 1.0]).repeat(USERS)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    return Log(offsets, torch.tensor([2, 3, 4, 5]).repeat(USERS), times, labels)


def asked(log: Log, **options: object) -> torch.Tensor:
    return split_log(log, "leave-one-out", **options).test.truth.items


def test_the_file_decides_which_of_two_events_of_a_second_is_the_last():
    assert asked(planted()).tolist() == [5] * USERS
    assert asked(planted(), ties="file").tolist() == [5] * USERS


def test_a_drawn_order_asks_for_either_and_leaves_other_users_alone():
    found = asked(planted(), ties="drawn", seed=1)
    assert 0.4 < (found == 4).float().mean() < 0.6
    assert set(found.tolist()) == {4, 5}
    assert found[-1] == 5


def test_what_is_not_asked_for_stands_in_the_history_once():
    split = split_log(planted(), "leave-one-out", ties="drawn", seed=1)
    for history, truth in zip(
        split.test.history.items.view(USERS, 3).tolist(), split.test.truth.items.tolist(), strict=True
    ):
        assert sorted([*history, truth]) == [2, 3, 4, 5]


def test_labels_and_times_go_with_their_events():
    log = planted()._replace(labels=torch.arange(4 * USERS).float())
    drawn = ties_drawn(log, 3)
    assert not torch.equal(drawn.items, log.items)
    torch.testing.assert_close(drawn.items, log.items[drawn.labels.long()])
    torch.testing.assert_close(drawn.times, log.times)


def test_another_seed_draws_another_order_and_one_seed_the_same():
    first, again, other = (asked(planted(), ties="drawn", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_last_n_draws_too():
    split = split_log(planted(), "last-n", n=1, ties="drawn", seed=1)
    assert torch.equal(split.test.truth.items, asked(planted(), ties="drawn", seed=1))


def test_ties_are_counted():
    assert ties_of(planted()) == Ties(events=USERS - 1, last=USERS - 1, users=USERS)
    apart = planted()._replace(times=torch.arange(4 * USERS))
    assert ties_of(apart) == Ties(0, 0, USERS)


def test_ties_across_users_are_none():
    log = Log(torch.tensor([0, 0, 0, 1, 2]), torch.tensor([2, 3]), torch.tensor([5, 5]))
    assert ties_of(log) == Ties(0, 0, 2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ties": "drawn"}, "needs a clock"),
        ({"ties": "any"}, 'ties must be "file" or "drawn"'),
        ({"ties": 3}, 'ties must be "file" or "drawn"'),
        ({"seed": 3}, 'seed = 3 is of ties = "drawn"'),
        ({"ties": "drawn", "seed": "x"}, "seed must be a whole number"),
    ],
)
@pytest.mark.bad_input
def test_a_policy_that_cannot_be_kept_is_one_line(options, words):
    with pytest.raises(InputError, match=words) as caught:
        split_log(planted()._replace(times=None), "leave-one-out", **options)
    assert "\n" not in str(caught.value)


def test_a_spec_names_the_policy():
    given = {"path": "log.csv", "user": "u", "item": "i", "time": "t"}
    split = {"kind": "leave-one-out", "ties": "drawn", "seed": 4}
    spec = Spec.from_dict({"name": "x", "interactions": given, "split": split})
    assert spec.split == split
    with pytest.raises(InputError, match="ties must be"):
        Spec.from_dict({"name": "x", "interactions": given, "split": {**split, "ties": "last"}})


def test_a_user_of_one_event_has_no_tie_wherever_it_stands():
    def counted(offsets: list[int], times: list[int]) -> Ties:
        return ties_of(Log(torch.tensor(offsets), torch.arange(len(times)) + 2, torch.tensor(times)))

    assert counted([0, 1, 3], [5, 7, 7]) == Ties(events=1, last=1, users=2)
    assert counted([0, 2, 3], [7, 7, 7]) == Ties(events=1, last=1, users=2)
    assert counted([0, 1], [5]) == Ties(events=0, last=0, users=1)
