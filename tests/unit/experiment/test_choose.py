"""The open number of a closed form is chosen on validation data, and memory is checked before anything is solved."""

import logging
from dataclasses import replace

import pytest
import torch

import twotower
from twotower.core.errors import InputError
from twotower.data.log import Log
from twotower.data.split import Targets
from twotower.data.splitters import split_log
from twotower.experiment.choose import MOST_TRIES, fit_closed_form
from twotower.experiment.learn import learn
from twotower.experiment.recipes import default_run
from twotower.models.base import OffersChoices
from twotower.models.baselines import ease
from twotower.models.registry import build_model
from twotower.ops.memory import available_memory


def chosen_when(best: float, dataset, *, refit: bool = False) -> tuple[float, list[float]]:
    """The value that is kept, and all that were tried, where validation likes values near ``best`` most."""
    model = build_model("ease", dataset.schema)
    split, tried = split_log(dataset.log, "leave-one-out"), []

    def validate(current) -> float:
        tried.append(current.lambda_)
        return -abs(torch.log(torch.tensor(current.lambda_ / best)).item())

    fit_closed_form(model, split, split.known if refit else split.train, validate, metric="ndcg@10")
    again = build_model("ease", dataset.schema, {"lambda_": model.lambda_})
    again.fit_log(split.known if refit else split.train)
    torch.testing.assert_close(model.weights, again.weights, rtol=0, atol=0)
    return model.lambda_, tried


@pytest.mark.parametrize("best", [0.01, 1.0, 31.6, 20_000.0])
def test_the_value_that_is_kept_has_a_worse_one_on_either_side(best, tiny_dataset):
    value, tried = chosen_when(best, tiny_dataset)
    assert min(tried) < value < max(tried)
    assert value / best == pytest.approx(1.0, abs=0.9)
    assert len(set(tried)) == len(tried) <= MOST_TRIES


def test_a_refit_learns_all_known_events_with_the_chosen_value(tiny_dataset):
    assert chosen_when(1.0, tiny_dataset, refit=True)[0] == pytest.approx(1.0, rel=0.01)


def test_a_value_that_is_given_is_not_chosen(tiny_dataset):
    run = default_run("ease").with_settings(["model.lambda_=7.5"])
    model, _ = learn(run, tiny_dataset, split_log(tiny_dataset.log, "leave-one-out"))
    assert model.lambda_ == 7.5


def test_without_validation_events_the_size_of_the_log_decides_and_a_line_says_so(tiny_dataset, caplog):
    split = split_log(tiny_dataset.log, "leave-one-out")
    nobody = tiny_dataset.log.select(torch.zeros(tiny_dataset.log.num_events, dtype=torch.bool))
    split = type(split)(split.train, Targets(nobody, nobody), split.test, split.known, split.leaks)
    with caplog.at_level(logging.INFO):
        model, _ = learn(default_run("ease"), tiny_dataset, split)
    assert isinstance(model, OffersChoices)
    assert model.lambda_ == model.first_choice(split.train) > 0
    assert "no validation events to choose lambda_ by" in caplog.text


def test_the_run_notes_the_value_so_that_it_can_be_repeated(tiny_dataset, tmp_path):
    trained = twotower.train("ease", tiny_dataset, to=tmp_path / "bundle")
    assert trained.run.model.settings["lambda_"] == trained.model.lambda_ > 0
    assert f"lambda_ = {trained.model.lambda_}" in (tmp_path / "bundle" / "run.toml").read_text()


def test_a_metric_that_validation_does_not_give_is_refused(tiny_dataset):
    with pytest.raises(InputError, match=r"training.metric is 'ndgc@10', but validation gives"):
        twotower.train("ease", tiny_dataset, metric="ndgc@10")


def test_the_first_choice_grows_with_the_events_of_an_item(tiny_dataset):
    model = build_model("ease", tiny_dataset.schema)
    users = torch.arange(2, 402).repeat_interleave(8)
    many = Log(
        torch.cat([torch.zeros(2, dtype=torch.int64), torch.arange(0, 3201, 8)]), torch.arange(2, 10).repeat(400)
    )
    assert len(users) == many.num_events
    assert model.first_choice(many) == pytest.approx(1000.0)
    assert model.first_choice(tiny_dataset.log) < 20.0


def test_ease_says_how_much_memory_is_missing_before_it_starts(tiny_dataset, monkeypatch):
    monkeypatch.setattr(ease, "available_memory", lambda: 1500.0)
    model = build_model("ease", tiny_dataset.schema)
    with pytest.raises(
        InputError, match=r"10 items need 0.0 GB while solving, and 0.0 GB of memory are free; use sparse_"
    ):
        model.fit_log(tiny_dataset.log)
    assert not model.weights.any()


def test_free_memory_is_the_smaller_of_the_systems_and_the_groups(tmp_path):
    system, group = tmp_path / "meminfo", tmp_path / "group"
    system.write_text("MemTotal: 9000 kB\nMemAvailable: 4000 kB\n")
    assert available_memory(system, group) == 4000 * 1024
    group.mkdir()
    (group / "memory.max").write_text("3000000\n")
    (group / "memory.current").write_text("1200000\n")
    (group / "memory.stat").write_text("anon 900000\ninactive_file 200000\n")
    assert available_memory(system, group) == 2_000_000
    (group / "memory.max").write_text("max\n")
    assert available_memory(system, group) == 4000 * 1024
    assert available_memory(tmp_path / "none", tmp_path / "none") == float("inf")


def test_the_solution_is_the_same_in_blocks_of_columns(tiny_dataset, monkeypatch):
    whole, parts = (build_model("ease", tiny_dataset.schema, {"lambda_": 0.7}) for _ in range(2))
    whole.fit_log(tiny_dataset.log)
    monkeypatch.setattr(ease, "_COLUMNS", 3)
    parts.fit_log(tiny_dataset.log)
    torch.testing.assert_close(whole.weights, parts.weights, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("name", "warned"), [("sasrec", True), ("ease", False)])
@pytest.mark.parametrize("ordered", [True, False])
def test_a_model_of_sequences_says_that_a_log_has_no_order(name, warned, ordered, tiny_dataset, caplog):
    dataset = replace(tiny_dataset, manifest={"name": "tiny", "ordered": ordered})
    run = default_run(name).with_settings(["training.epochs=1"] if warned else [])
    learn(run, dataset, split_log(dataset.log, "leave-one-out"))
    assert ("'tiny' has no order, and 'sasrec' learns from order" in caplog.text) == (warned and not ordered)
