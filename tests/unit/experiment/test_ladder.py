"""The parts of ``fit`` by themselves: which model is taken, how time is cut, which variants there are."""

from __future__ import annotations

import dataclasses
import time

import pytest
import torch

from twotower.core.durations import clock, seconds_of
from twotower.core.errors import InputError
from twotower.data.log import Log
from twotower.evaluation.result import Result
from twotower.experiment.ladder.blend import pairs_of
from twotower.experiment.ladder.budget import Budget, StopAfter, TimeLimit
from twotower.experiment.ladder.climb import LADDER, VARIANTS, Ladder
from twotower.experiment.ladder.cut import choose_split
from twotower.experiment.ladder.last_fit import best_epoch
from twotower.experiment.ladder.pick import pick
from twotower.experiment.ladder.rungs import METRIC, Rung, is_closed, rung_run
from twotower.experiment.ladder.sources import repeats
from twotower.experiment.train import spelled_out
from twotower.models.base import Model
from twotower.models.registry import build_model
from twotower.training.callbacks import EpochRecord, StopTraining


def result(values: torch.Tensor) -> Result:
    values = values.double()
    per_user = {METRIC: values}
    return Result("validation", torch.arange(len(values)), 50, per_user, {METRIC: float(values.mean())}, 1, 0, 0)


def noisy(mean: float, seed: int, users: int = 400) -> torch.Tensor:
    return (torch.rand(users, generator=torch.Generator().manual_seed(seed)) < mean).double()


def test_the_simpler_model_is_taken_where_the_difference_is_noise():
    simple = noisy(0.3, 1)
    hardly_better = simple.clone()
    hardly_better[:3] = 1.0
    choice = pick({"ease": result(simple), "sasrec": result(hardly_better)}, METRIC)
    assert (choice.name, choice.best) == ("ease", "sasrec")
    assert choice.p_values["ease"] >= 0.05
    assert "is simpler than sasrec" in choice.reason


def test_the_better_model_is_taken_where_users_speak_for_it():
    simple = noisy(0.3, 1)
    better = (simple + noisy(0.2, 2)).clamp(max=1.0)
    choice = pick({"popularity": result(simple * 0.5), "ease": result(simple), "sasrec": result(better)}, METRIC)
    assert (choice.name, choice.best) == ("sasrec", "sasrec")
    assert max(choice.p_values.values()) < 0.05
    assert "no simpler model comes as near as noise (p below 0.05 for 2)" in choice.reason


def test_the_best_model_is_mixed_with_the_three_next_of_other_names(tmp_path):
    figures = {
        "popularity": ("popularity", 0.1),
        "item_lists": ("item_lists", 0.3),
        "ease": ("ease", 0.4),
        "two_tower": ("two_tower", 0.6),
        "two_tower temperature=0.08": ("two_tower", 0.7),
        "sasrec": ("sasrec", 0.5),
        "mixture of others": ("mixture", 0.9),
    }
    rungs = [
        Rung(name, model, tmp_path, validation=result(noisy(mean, 3, 2000))) for name, (model, mean) in figures.items()
    ]
    pairs = [(first.name, second.name) for first, second in pairs_of([*rungs, Rung("hstu", "hstu", tmp_path)])]
    best = "two_tower temperature=0.08"
    assert pairs == [(best, "sasrec"), (best, "ease"), (best, "item_lists")]
    assert pairs_of(rungs[:1]) == pairs_of([]) == []


def test_a_worse_model_that_is_less_simple_is_never_taken():
    best = noisy(0.4, 1)
    choice = pick({"ease": result(best), "sasrec": result(best.clone())}, METRIC)
    assert choice.name == "ease"
    worse = pick({"ease": result(best), "sasrec": result(best * 0.5)}, METRIC)
    assert worse.name == "ease"


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "text", ["", "ten", "10", "10 minutes", "-5m", "0s", "m", 0, -1.0, float("nan"), float("inf"), True]
)
def test_what_is_no_budget_is_refused(text):
    with pytest.raises(InputError, match="write it as 90s, 10m or 1h30m"):
        seconds_of(text)


@pytest.fixture
def model(tiny_dataset) -> Model:
    return build_model("popularity", tiny_dataset.schema)


def test_a_time_limit_ends_before_an_epoch_that_would_be_late(model):
    limit = TimeLimit(0.25)
    limit.started(9, 1, 0)
    time.sleep(0.1)
    limit.epoch_done(EpochRecord(1, 1, 1.0, 0.1, 0.1), model)
    time.sleep(0.1)
    with pytest.raises(StopTraining):
        limit.epoch_done(EpochRecord(2, 2, 1.0, 0.1, 0.2), model)
    assert limit.reached


def test_a_time_limit_ends_in_the_middle_of_an_epoch_too():
    limit = TimeLimit(0.0)
    limit.started(9, 1, 0)
    with pytest.raises(StopTraining):
        limit.stepped(1)


def test_a_last_fit_ends_after_the_best_epoch(model, tmp_path):
    records = [{"epoch": 1, METRIC: 0.1}, {"epoch": 2, METRIC: 0.3}, {"epoch": 3, METRIC: 0.2}]
    epochs = best_epoch(Rung("sasrec", "sasrec", tmp_path, records=records))
    assert epochs == 2
    stop = StopAfter(epochs)
    stop.epoch_done(EpochRecord(1, 5, 2.0, 0.1, 1.0), model)
    with pytest.raises(StopTraining):
        stop.epoch_done(EpochRecord(2, 10, 1.0, 0.1, 2.0), model)


def test_a_model_joins_the_ladder_by_its_name_simplest_first():
    closed = [is_closed(name) for name in LADDER]
    assert closed == sorted(closed, reverse=True), "a trained model stands before a closed form"
    assert set(VARIANTS) <= set(LADDER)


@pytest.mark.parametrize("model", VARIANTS)
def test_variants_can_be_built_and_no_two_are_the_same(model, tmp_path, tiny_dataset):
    runs = [rung_run(model, tmp_path, settings=settings, mask_seen=True) for settings in VARIANTS[model]]
    for run in runs:
        build_model(model, tiny_dataset.schema, run.model.settings)
    assert len({spelled_out(run).to_toml() for run in runs}) == len(runs)


def test_a_closed_form_that_would_take_hours_is_left_out(tiny_dataset, tmp_path):
    schema = dataclasses.replace(tiny_dataset.schema, num_items=19_000)
    ladder = Ladder(tiny_dataset, tmp_path, Budget(60.0))
    ladder.dataset = dataclasses.replace(tiny_dataset, schema=schema)
    assert "for 18,998 items it would take about" in ladder._left_out("ease", 60.0)
    assert ladder._left_out("popularity", 60.0) == ""


def test_repeats_are_counted_by_user(tiny_dataset, tmp_path):
    split = Ladder(tiny_dataset, tmp_path, Budget(60.0)).split
    truth, history = split.validation.truth, split.validation.history
    pairs = set(zip(history.users().tolist(), history.items.tolist(), strict=True))
    again = [pair in pairs for pair in zip(truth.users().tolist(), truth.items.tolist(), strict=True)]
    assert repeats(split) == sum(again) / len(again)


def test_times_are_written_for_people():
    assert [clock(s) for s in (0.2, 59.4, 59.6, 3599.0, 3600.0)] == [
        "0 s",
        "59 s",
        "1:00 min",
        "59:59 min",
        "1:00:00 h",
    ]


def clocked_log(users: int, *, stay: bool) -> Log:
    """Ten events a user; who stays has one a day from the first day on, who does not has all on a day of its own."""
    days = torch.arange(10).repeat(users)
    own = torch.arange(users).repeat_interleave(10)
    times = 86_400 * (days if stay else own) + (own if stay else days)
    items = 2 + (own + days) % 15
    lengths = torch.cat([torch.zeros(2, dtype=torch.int64), torch.full((users,), 10)])
    return Log(torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]), items, times)


def test_a_log_whose_users_come_back_is_cut_at_one_moment():
    kind, why = choose_split(clocked_log(1_200, stay=True))
    assert kind == "global-time"
    assert "nothing of the future" in why


def test_a_log_whose_users_come_once_is_cut_by_user():
    kind, why = choose_split(clocked_log(1_200, stay=False))
    assert kind == "leave-one-out"
    assert "users with a history would be asked about" in why


def test_a_small_log_and_one_without_a_clock_are_cut_by_user():
    log = clocked_log(200, stay=True)
    assert choose_split(log)[0] == "leave-one-out"
    assert "has no clock" in choose_split(log._replace(times=None))[1]


def test_a_log_whose_late_users_are_mostly_new_is_cut_by_user():
    stay, new = 6_000, 18_000
    lengths = torch.cat([torch.tensor([0, 0]), torch.full((stay,), 10), torch.ones(new, dtype=torch.int64)])
    users = torch.arange(stay + new)
    days = torch.cat([torch.arange(10).repeat(stay), 8 + torch.arange(new) % 2])
    moments = ((users * 7_919) % 80_000).repeat_interleave(lengths[2:])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    kind, why = choose_split(Log(offsets, 2 + moments % 15, 86_400 * days + moments))
    assert kind == "leave-one-out"
    assert "% of the users asked about would have a history" in why
