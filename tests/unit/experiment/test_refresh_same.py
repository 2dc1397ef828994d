"""Newer data are the old log gone on, or are refused; an unrelated log of later days with the same ids is told."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch

from twotower.core.errors import InputError
from twotower.core.schema import Schema
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.experiment.refresh_same import check_same_log
from twotower.serving.joined import Joined, join_logs

USERS, ITEMS, EVENTS = 42, 102, 4_000


def drawn(seed: int, start: int, *, shuffled: bool = False) -> Log:
    """Events in 1,000 s from ``start``; item 2 is the most popular, or, where shuffled, any."""
    generator = torch.Generator().manual_seed(seed)
    ranks = (torch.rand(EVENTS, generator=generator) ** 3 * (ITEMS - 2)).long()
    names = torch.randperm(ITEMS - 2, generator=generator) if shuffled else torch.arange(ITEMS - 2)
    users = torch.randint(2, USERS, (EVENTS,), generator=generator).sort().values
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), users.bincount(minlength=USERS).cumsum(0)])
    return Log(offsets, 2 + names[ranks], start + torch.randint(0, 1000, (EVENTS,), generator=generator))


def joined(tiny_dataset: Dataset, stored: Log, newer: Log) -> Joined:
    log, fresh, repeats = join_logs(stored, newer, USERS)
    dataset = replace(tiny_dataset, schema=Schema(USERS, ITEMS, (), (), True), log=log)
    return Joined(dataset, fresh, 0, 0, repeats)


def test_a_log_that_grew_a_week_alone_and_late_events_are_the_same_log(
    tiny_dataset: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    old, week = drawn(0, 0), drawn(1, 1000)
    grown, _, _ = join_logs(old, week, USERS)
    late = drawn(2, 0).select(torch.arange(EVENTS) % 12 == 0)
    with_late, _, _ = join_logs(week, late, USERS)
    with caplog.at_level(logging.WARNING):
        for newer in (grown, week, with_late):
            check_same_log(joined(tiny_dataset, old, newer), "week", "bundle")
    assert not caplog.records


@pytest.mark.parametrize("newer", [drawn(5, 100), drawn(5, 800, shuffled=True)])
def test_an_unrelated_log_of_the_same_days_and_ids_is_refused_with_counts(tiny_dataset: Dataset, newer: Log) -> None:
    found = joined(tiny_dataset, drawn(0, 0), newer)
    assert newer.times is not None
    inside = int((newer.times < 980).sum())
    with pytest.raises(InputError, match="not in it; only \\d+ are: this is another log with the same ids") as error:
        check_same_log(found, "week", "bundle")
    told = int(str(error.value).split()[1].replace(",", ""))
    assert inside <= told <= inside + 0.02 * EVENTS


def test_the_same_log_with_its_times_in_another_zone_is_refused(tiny_dataset: Dataset) -> None:
    old = drawn(0, 0)
    assert old.times is not None
    with pytest.raises(InputError, match="or one with other times"):
        check_same_log(joined(tiny_dataset, old, old._replace(times=old.times + 36)), "week", "bundle")


def test_one_clock_that_was_ahead_does_not_make_a_week_another_log(tiny_dataset: Dataset) -> None:
    old, week = drawn(0, 0), drawn(1, 1000)
    assert old.times is not None
    times = old.times.clone()
    times[old.offsets[-1] - 1] = 10_000  # the last event of the last user
    check_same_log(joined(tiny_dataset, old._replace(times=times), week), "week", "bundle")


def test_an_unrelated_log_of_later_days_is_told_by_the_popularity_of_its_items(
    tiny_dataset: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        check_same_log(joined(tiny_dataset, drawn(0, 0), drawn(7, 1000, shuffled=True)), "week", "bundle")
    assert "is it another log with the same ids?" in caplog.text
    assert "items in both occur there has nothing to do with" in caplog.text
