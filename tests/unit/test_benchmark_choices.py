"""What `benchmarks/ladder.py` and `cold_items.py` choose by: validation alone."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def ladder(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")
    import ladder

    return ladder


@pytest.fixture
def cold_items(ladder):
    import cold_items

    return cold_items


def test_a_closed_form_counts_with_the_setting_that_validation_likes_more_than_its_default(ladder):
    lines = [{"set": "mine", "models": {"item_lists": {"validation": 0.2, "test": 0.1}}}]

    def line(setting: str, validation: float, test: float) -> dict[str, object]:
        return {"set": "mine", "model": "item_lists", "setting": setting, "validation": validation, "test": test}

    more = [line("worse", 0.1, 0.9), line("better", 0.3, 0.2), line("best", 0.4, 0.05), line("best of all", 0.35, 0.8)]
    assert ladder.more_closed(lines, more) == {"mine": {"item_lists, best": 0.05}}
    assert ladder.more_closed(lines, more[:1]) == {}
    other = {"set": "mine", "model": "sparse_ease", "setting": "default", "test": 0.3}
    assert ladder.more_closed(lines, [other]) == {"mine": {"sparse_ease": 0.3}}


def test_new_items_are_settled_by_the_warmest_way_that_is_surely_good_enough_on_every_log(cold_items):
    def lines(setting: str, ways: dict[str, list[tuple[float, float]]]) -> list[dict[str, object]]:
        return [
            {"set": log, "setting": setting, "seed": seed, "ways": [[10, 0.25, warm, 0.0, cold, 1e6]]}
            for log, seeds in ways.items()
            for seed, (warm, cold) in enumerate(seeds)
        ]

    sure = {"one": [(0.2, 6.0), (0.2, 6.1), (0.2, 5.9)], "two": [(0.1, 9.0)] * 3}
    surer = {"one": [(0.19, 8.0)] * 3, "two": [(0.1, 9.0)] * 3}
    shaky = {"one": [(0.3, 2.0), (0.3, 6.0), (0.3, 10.0)], "two": [(0.3, 9.0)] * 3}
    low = {"one": [(0.3, 9.0)] * 3, "two": [(0.3, 4.9)] * 3}
    every = [*lines("sure", sure), *lines("surer", surer), *lines("shaky", shaky), *lines("low", low)]
    assert cold_items.chosen(cold_items.means(every)) == ("sure", 10, 0.25)
    assert cold_items.chosen(cold_items.means(lines("low", low))) is None
    assert cold_items.means(lines("shaky", shaky))["shaky", 10, 0.25]["one"][2][0] == pytest.approx(6.0)


def test_the_choice_that_the_page_of_experiments_states_is_that_of_the_kept_lines(cold_items, ladder):
    results = Path(cold_items.__file__).parent / "results"
    kept = cold_items.tune_defaults.read(results / "cold_items.jsonl")
    assert cold_items.chosen(cold_items.means(kept)) == ("id_dropout=0.3", cold_items.NEAREST, cold_items.POWER)
    found = ladder.summary(ladder.tune_defaults.read(results / "ladder.jsonl"), {})
    assert (found["below_popularity"], found["choice_behind_best_baseline"]) == ([], [])
    assert found["two_tower_over_ease"] == pytest.approx(1.083, abs=5e-4)
