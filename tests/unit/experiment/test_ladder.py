"""The parts of ``fit`` by themselves: which model is taken, how time is cut, which variants there are."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import pytest
import torch

from twotower.core.durations import clock, seconds_of
from twotower.core.errors import InputError
from twotower.core.schema import Schema
from twotower.data.log import Log
from twotower.evaluation.result import Result
from twotower.experiment.choose import climbed
from twotower.experiment.defaults import spelled_out
from twotower.experiment.ladder import budget, costs
from twotower.experiment.ladder import climb as climb_module
from twotower.experiment.ladder import fit as fit_module
from twotower.experiment.ladder.blend import pairs_of
from twotower.experiment.ladder.budget import Budget, StopAfter, TimeLimit
from twotower.experiment.ladder.climb import LADDER, VARIANTS, Ladder
from twotower.experiment.ladder.costs import best_epoch
from twotower.experiment.ladder.cut import choose_split
from twotower.experiment.ladder.pick import pick
from twotower.experiment.ladder.rungs import METRIC, Rung, is_closed, rung_run
from twotower.experiment.ladder.sources import repeats
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


class Clock:
    """Seconds that pass when a test says so, and not while the machine is busy with something else."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clocked(monkeypatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(budget, "time", found)
    return found


def test_a_time_limit_ends_before_an_epoch_that_would_be_late(model, clocked):
    limit = TimeLimit(0.25)
    limit.started(9, 1, 0)
    clocked.now += 0.1
    limit.epoch_done(EpochRecord(1, 1, 1.0, 0.1, 0.1), model)
    clocked.now += 0.1
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


def test_a_closed_form_that_would_take_hours_is_left_out(tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "solving_speed", lambda: 2e10)
    schema = dataclasses.replace(tiny_dataset.schema, num_items=19_000)
    ladder = Ladder(tiny_dataset, tmp_path, Budget(60.0))
    ladder.dataset = dataclasses.replace(tiny_dataset, schema=schema)
    assert "for 18,998 items one fit would take about 5:50 min" in ladder._left_out("ease", 60.0)
    assert ladder._left_out("popularity", 60.0) == ""


def test_the_budget_asked_for_counts_what_is_spent_already(tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "solving_speed", lambda: 2e10)
    schema = dataclasses.replace(tiny_dataset.schema, num_items=9_000)
    ladder = Ladder(tiny_dataset, tmp_path, Budget(120.0))
    ladder.dataset = dataclasses.replace(tiny_dataset, schema=schema)
    ladder.budget.start -= 100.0
    needed = costs.seconds_of_fit("ease", 8_998)
    assert 2 * needed < 120.0, "less than the budget, so that to ask for twice as much would contradict it"
    assert ladder._left_out("ease", 60.0).endswith(f"raise --budget beyond {clock(100.0 + 2 * needed)}")


def test_a_closed_form_of_which_one_fit_is_in_the_budget_is_tried(tiny_dataset, tmp_path, monkeypatch):
    """5,000 users and 9,447 items in 90 seconds: EASE was left out for the time of five fits, and it would have won."""
    monkeypatch.setattr(costs, "solving_speed", lambda: 3e10)
    ladder = Ladder(tiny_dataset, tmp_path, Budget(90.0))
    schema = dataclasses.replace(tiny_dataset.schema, num_items=9_449)
    ladder.dataset = dataclasses.replace(tiny_dataset, schema=schema)
    assert ladder._left_out("ease", 30.0) == ""


@pytest.mark.slow
def test_the_time_of_a_fit_of_ease_is_told_within_a_factor_of_three():
    items = 3_000
    seen = torch.rand(4_000, items, generator=torch.Generator().manual_seed(0)) < 0.01
    offsets = torch.cat([torch.zeros(3, dtype=torch.int64), seen.sum(1).cumsum(0)])
    model = build_model("ease", Schema(4_002, items + 2), {"lambda_": 100.0})
    start = time.perf_counter()
    model.fit_log(Log(offsets, 2 + seen.nonzero()[:, 1]))
    took = time.perf_counter() - start
    costs.solving_speed.cache_clear()
    assert took / 3 < costs.seconds_of_fit("ease", items) < took * 3


def test_the_search_for_a_penalty_ends_before_a_try_that_would_be_late(tiny_dataset, caplog, clocked):
    model = build_model("ease", tiny_dataset.schema)
    limit = TimeLimit(0.25)

    def score(value: float) -> float:
        clocked.now += 0.1
        return value

    with caplog.at_level("INFO"):
        assert climbed(model, 10.0, score, metric=METRIC, limit=limit) == 31.6
    assert (limit.tries, limit.reached) == (2, True)
    assert "no time for more" in caplog.text
    assert climbed(model, 10.0, score, metric=METRIC, limit=TimeLimit(0.0)) == 10.0, "one value is tried in any case"


def closed_rung(folder: Path, seconds: float, tries: int) -> Rung:
    return Rung("ease", "ease", folder, seconds, result(noisy(0.3, 1)), tries=tries)


def trained_rung(folder: Path, name: str, seconds: float, *, best: int, epochs: int) -> Rung:
    records = [
        {"epoch": epoch, "seconds": seconds * epoch / epochs, METRIC: -abs(epoch - best)}
        for epoch in range(1, 1 + epochs)
    ]
    return Rung(name, name, folder, 2 * seconds, result(noisy(0.3, 1)), records=records)


def test_a_last_fit_takes_the_training_up_to_the_best_epoch_and_one_try_of_a_closed_form(tmp_path):
    ease = closed_rung(tmp_path, 12.0, 4)
    tower = trained_rung(tmp_path, "two_tower", 20.0, best=6, epochs=10)
    beside = costs.LAST_FIT_SECONDS
    assert costs.last_fit_seconds(ease, growth=2.0) == pytest.approx(6.0 + beside)
    assert costs.last_fit_seconds(tower) == pytest.approx(12.0 + beside)
    both = Rung("mixture", "mixture", tmp_path, 1.0, result(noisy(0.3, 1)), parts=(tower, ease))
    assert costs.last_fit_seconds(both) == pytest.approx(15.0 + 2 * beside)
    stopped = Rung("sasrec", "sasrec", tmp_path, 9.0, result(noisy(0.3, 1)), short=True)
    assert costs.last_fit_seconds(stopped) is None, "it has trained no whole epoch"
    assert costs.last_fit_seconds(dataclasses.replace(both, parts=(tower, stopped))) is None


def test_time_is_kept_for_the_last_fit_of_one_trained_model_and_one_closed_form(tiny_dataset, tmp_path, clocked):
    ladder = Ladder(tiny_dataset, tmp_path, Budget(120.0))
    ladder.growth = 1.0
    tower, sasrec = LADDER.index("two_tower"), LADDER.index("sasrec")
    assert ladder._share(tower) == pytest.approx((120.0 - 6.0) / 3), "two models, and one of them once more"
    ladder._rungs[0, 0] = closed_rung(tmp_path, 1.0, 1)
    assert ladder._share(tower) == pytest.approx((120.0 - 6.0 - 2.0) / 3)
    ladder._rungs[tower, 0] = trained_rung(tmp_path, "two_tower", 20.0, best=10, epochs=10)
    assert ladder._share(sasrec) == pytest.approx((120.0 - 6.0 - 2.0) / 2), "its own last fit is the dearer one"
    ladder._rungs[tower, 0] = trained_rung(tmp_path, "two_tower", 79.0, best=10, epochs=10)
    assert ladder._share(sasrec) == pytest.approx(120.0 - 6.0 - 2.0 - 80.0)
    assert (ladder._free(), ladder._dearest()) == (pytest.approx(112.0), pytest.approx(80.0))


def test_two_trained_models_are_mixed_only_where_both_can_be_trained_again(
    tiny_dataset, tmp_path, clocked, monkeypatch
):
    mixed = []
    monkeypatch.setattr(
        climb_module, "mix", lambda parts, *given: mixed.append([one.name for one in parts]) or refuse()
    )
    for seconds, expected in (
        (90.0, [["two_tower", "ease"]]),
        (300.0, [["two_tower", "sasrec"], ["two_tower", "ease"]]),
    ):
        mixed.clear()
        ladder = Ladder(tiny_dataset, tmp_path, Budget(seconds))
        ladder.growth = 1.0
        figures = {"two_tower": noisy(0.5, 1), "sasrec": noisy(0.4, 1)}
        for name, figure in figures.items():
            made = trained_rung(tmp_path, name, 50.0, best=10, epochs=10)
            ladder._rungs[LADDER.index(name), 0] = dataclasses.replace(made, validation=result(figure))
        ladder._rungs[LADDER.index("ease"), 0] = closed_rung(tmp_path, 1.0, 1)
        ladder._mix()
        assert mixed == expected
        left_out = ladder._rungs[len(LADDER), 0].left_out
        assert left_out == "no weight helps"


def refuse() -> None:
    raise InputError("no weight helps")


def test_a_mixture_of_closed_forms_is_fitted_on_all_events_whatever_time_is_left(tiny_dataset, tmp_path, monkeypatch):
    ladder = Ladder(tiny_dataset, tmp_path, Budget(1e-9))
    monkeypatch.setattr(fit_module, "fit_on_all", lambda *given, **named: None)
    monkeypatch.setattr(fit_module, "as_it_is", lambda rung, to: None)
    ease, other = closed_rung(tmp_path, 12.0, 4), closed_rung(tmp_path, 1.0, 1)
    tower = trained_rung(tmp_path, "two_tower", 20.0, best=6, epochs=10)
    learnt = [
        fit_module._written(
            Rung("both", "mixture", tmp_path, 1.0, result(noisy(0.3, 1)), parts=parts),
            ladder,
            tmp_path / "bundle",
            False,
            lambda name: (),
            lambda text: None,
        )[0]
        for parts in ((ease, other), (ease, tower))
    ]
    assert learnt == ["all events", "the training events alone (no time was left for more)"]


def test_two_tower_begins_with_co_occurrence_without_features_and_drops_ids_with_them(tiny_dataset, tmp_path):
    bare = dataclasses.replace(tiny_dataset, schema=dataclasses.replace(tiny_dataset.schema, item_features=()))
    found = []
    for dataset in (bare, tiny_dataset):
        for settings in ((), *VARIANTS["two_tower"][:2]):
            run = Ladder(dataset, tmp_path, Budget(60.0))._run("two_tower", settings)
            given = run.model.settings
            found.append((given.get("init", "drawn"), run.training.learning_rate, given.get("id_dropout", 0.0)))
    assert found[:3] == [("auto", 0.003, 0.0), ("auto", 0.003, 0.0), ("drawn", 0.01, 0.0)]
    assert found[3:] == [("drawn", 0.01, 0.3), ("auto", 0.003, 0.3), ("drawn", 0.01, 0.3)]
    ladder = Ladder(bare, tmp_path, Budget(60.0))
    assert spelled_out(ladder._run("two_tower", VARIANTS["two_tower"][0])) == spelled_out(ladder._run("two_tower"))
    assert ladder._run("item_cosine").model.settings["shrink"] == 10.0
    assert ladder._run("sasrec") == rung_run("sasrec", Path(), settings=["training.device=auto"], mask_seen=True)


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
