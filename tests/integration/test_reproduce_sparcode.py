"""SparCode's table on a tiny data set: every row trains, lists are rows of their trainings, and figures agree."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.experiment.run import Run
from twotower.models.sparcode import SparCode
from twotower.reproduce.sparcode import cold, splits
from twotower.reproduce.sparcode import measure as measuring
from twotower.reproduce.sparcode.lists import filled
from twotower.reproduce.sparcode.measure import first_events, is_listed, measure, with_precision_min
from twotower.reproduce.sparcode.short import TABLE as SHORT
from twotower.reproduce.sparcode.table import DATA, ENCODERS, SCORES, TABLE, variants
from twotower.reproduce.study import cells_of, run_table
from twotower.reproduce.summary import summarise


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    from twotower.data import sources
    from twotower.data.prepare.prepare import prepare
    from twotower.data.prepare.spec import Spec
    from twotower.data.sources.synthetic import Synthetic

    folder = tmp_path_factory.mktemp("data")
    spec = sources.get("synthetic", folder / "raw", settings=Synthetic(users=90, items=120, cold_items=3, events=14))
    return prepare(Spec.from_toml(spec), folder / "prepared")


def tiny(run: Run) -> Run:
    settings = dict(run.model.settings)
    if run.model.name.startswith("sparcode") or run.model.name == "all_to_all":
        settings |= {"dim": 8, "layers": 1}
    if run.model.name == "sparcode":
        settings |= {"codebook": 8, "warm_up": 1.0}
    if run.model.name == "tdm":
        settings |= {"dim": 8, "negatives": 8}
    sources = tuple(replace(source, settings={"number": 30}) for source in run.sampling.sources if source.settings)
    return replace(
        run,
        model=replace(run.model, settings=settings),
        sampling=replace(run.sampling, sources=sources or run.sampling.sources),
        training=replace(run.training, epochs=2, batch_size=256, device="cpu"),
    )


PAIRWISE = ("all_to_all_pdnn", "all_to_all_attention")
"""Rows whose score is a network for every pair."""


def tiny_variants(data: str) -> dict[str, list[Run]]:
    return {
        name: [tiny(run) for run in runs][: 2 if name == "dssm" else 1]
        for name, runs in variants("ml-1m").items()
        if name in ("dssm", "sasrec", "sparcode_sasrec", "gate_sasrec", "popularity", "ease", *PAIRWISE)
    }


@pytest.fixture(autouse=True)
def lists_that_fit(monkeypatch):
    monkeypatch.setattr(measuring, "SPARSITIES", ((0.0, 98.0), (99.0,)))
    monkeypatch.setattr(measuring, "CODES", (12, 12))


@pytest.mark.slow
def test_the_table_from_data_to_figures(prepared, tmp_path):
    views = {"sasrec/nominate": ("sasrec", "98/"), "gate/all": ("gate_sasrec", "0/"), "none": ("popularity", "0/")}
    table = replace(TABLE, variants=tiny_variants, views=views)
    data = {"tiny": prepared}
    chosen = run_table(table, data, tmp_path, seeds=2)
    part = summarise(table, data, chosen, 2, tmp_path)["tiny"]
    assert list(dict.fromkeys(figure.variant for figure in part)) == [
        "dssm", "sasrec", "sasrec/nominate", "sparcode_sasrec", "gate_sasrec", "gate/all", "popularity",
        "ease", *PAIRWISE,
    ]  # fmt: skip
    found = {(figure.variant, figure.metric): figure for figure in part}
    assert not [metric for _, metric in found if "/" in metric]
    lists = found["sasrec/nominate", "mean_list"].mean
    assert 1.0 <= lists <= 2.0
    assert found["gate/all", "sparsity"].mean == pytest.approx(0.0)
    # Lists of everything are the model itself; a corrected p-value is never below the plain one.
    assert found["gate/all", "recall@50"].mean == pytest.approx(found["gate_sasrec", "recall@50"].mean, abs=0.01)
    tested = found["sasrec/nominate", "recall@50"]
    assert tested.p_users is not None
    assert tested.holm_users is not None
    assert tested.holm_users >= tested.p_users
    assert "| sasrec/nominate | " in (tmp_path / "sparcode.md").read_text()
    record = json.loads(next((tmp_path / "tiny" / "sparcode_sasrec").glob("seed-1-*.json")).read_text())
    assert record["metrics"]["98/short"] > 0.0
    assert {"98/sparsity", "98/recall@50", "precision_min@50"} <= set(record["metrics"])


def test_nominating_from_full_lists_is_the_twin_itself(prepared):
    run = tiny(variants("ml-1m")["sasrec"][0])
    found = measure(replace(run, training=replace(run.training, epochs=1, seed=1)), Dataset.load(prepared))
    for metric in ("recall@50", "ndcg@50", "precision_min@50"):
        torch.testing.assert_close(found.per_user[f"0/{metric}"], found.per_user[metric])
        assert found.metrics[f"0/{metric}"] == pytest.approx(found.metrics[metric])
    assert found.metrics["0/short"] == 0.0
    assert found.metrics["98/mean_list"] == 2.0


def test_a_beam_of_all_nodes_is_the_tree_model_itself(prepared):
    run = tiny(variants("ml-1m")["tdm_dot"][0])
    found = measure(replace(run, training=replace(run.training, epochs=2, seed=1)), Dataset.load(prepared))
    for metric in ("recall@50", "ndcg@50", "precision_min@50"):
        torch.testing.assert_close(found.per_user[f"beam/{metric}"], found.per_user[metric])
    assert found.metrics["beam/short"] == 0.0
    assert not [name for name in found.metrics if name.startswith("98/")]


def test_twins_choose_among_the_same_temperatures_and_every_run_can_be_written():
    for data in TABLE.data:
        rows = variants(data)
        for name in ("dssm", "gru4rec", "sasrec"):
            found = [{key: run.model.settings[key] for key in SCORES[0]} for run in rows[name]]
            assert found[:5] == [*SCORES, *SCORES, SCORES[0]]
            form = rows["all_to_all"][0]
            further = {run.model.settings["temperature"] for run in rows[name][5:]}
            assert further == ({0.03, 0.06, 0.12} if (data, name) == ("sessions-diginetica", "sasrec") else set())
            for run in rows[name][2:4]:
                assert (run.objective, run.sampling, run.training) == (form.objective, form.sampling, form.training)
            assert len({run.to_toml() for run in rows[name]}) == len(rows[name])
        for runs in rows.values():
            for run in runs:
                assert Run.from_dict(tomllib.loads(run.to_toml())) == run
                assert run.data.split_options == rows["sasrec"][0].data.split_options
        assert {of for of, _ in TABLE.views.values()} - set(rows) == (set() if data == "ml-1m" else {"tdm", "tdm_mlp"})


@pytest.mark.parametrize("data", splits.TABLE.data)
def test_rows_on_drawn_splits_are_those_that_validation_chose_on_one(data):
    page = Path(__file__).parents[2] / "benchmarks" / "papers" / f"sparcode-{data}.json"
    chosen = json.loads(page.read_text(encoding="utf-8"))["chosen"][data]
    rows = splits.variants(data)
    assert set(rows) <= set(chosen)
    for name, (run,) in rows.items():
        assert replace(run, data=DATA) == Run.from_dict(tomllib.loads(chosen[name])), name
    cells = cells_of(splits.TABLE, data, Path(), "sasrec", rows["sasrec"][0], 5)
    assert [cell.run.data.split_options["seed"] for cell in cells] == [1, 2, 3, 4, 5]
    assert {of for of, _ in splits.TABLE.views.values()} <= set(rows)


def test_codes_start_after_half_of_the_epochs_and_every_form_has_the_same_choices():
    for data in TABLE.data:
        rows = variants(data)
        forms = [name for name in rows if name.startswith("sparcode_") and name != "sparcode_printed"]
        for name in [*forms, "gate_sasrec", "all_to_all"]:
            given = [(run.model.settings.get("cosine", False), run.training.learning_rate) for run in rows[name]]
            assert given[:3] == [(False, 6e-3), (True, 6e-3), (True, 3e-3)]
            assert all(cosine for cosine, _ in given[3:])
            for run in rows[name]:
                assert (
                    run.model.settings.get("codes") == "none"
                    or run.model.settings["warm_up"] * 2 == run.training.epochs
                )


def test_sparcode_may_have_more_codes_where_items_are_many_and_temperatures_and_rates_end_inside_the_grid():
    for data in TABLE.data:
        rows = variants(data)
        for twin, encoder in ENCODERS.items():
            further = rows[f"sparcode_{twin}"][3:]
            assert all(run.model.settings["tokenizer"] == encoder for run in further)
            found = {
                (run.model.settings["codebook"], run.model.settings["temperature"], run.training.learning_rate)
                for run in further
            }
            wanted = {(1024, 0.24, 6e-3), (4096, 0.24, 6e-3)} if data == "sessions-diginetica" else set()
            if wanted and encoder == "self_attention":
                wanted |= {(1024, at, 6e-3) for at in (0.06, 0.12, 0.48)} | {(4096, 0.12, 6e-3), (1024, 0.24, 1.2e-2)}
            assert found == wanted
            assert len(further) == len(wanted)


def test_codes_of_one_codebook_have_lists_and_combinations_of_two_are_judged_densely(tiny_dataset, monkeypatch):
    monkeypatch.setattr(SparCode, "selectable", True)  # as once codes have started

    def listed(**settings):
        schema = replace(tiny_dataset.schema, num_users=10_000)
        return is_listed(SparCode(schema, dim=8, tokens=4, **settings))

    assert listed(codebook=4096)
    assert not listed(codebook=4097)
    assert not listed(codebook=8, books=2)
    assert not listed(codes="none")


def test_the_short_table_has_the_twins_of_the_present_one():
    for data in TABLE.data:
        rows, short = variants(data), SHORT.variants(data)
        for name in ("dssm", "gru4rec", "sasrec"):
            assert short[name] == rows[name][:2]
        assert {run.training.epochs for name in short if name.startswith("sparcode") for run in short[name]} == {6}
        assert {of for of, _ in SHORT.views.values()} <= set(short)


def test_of_repeated_items_the_first_event_stays():
    log = first_events(Log(torch.tensor([0, 0, 0, 4, 7]), torch.tensor([5, 3, 5, 3, 3, 3, 9])))
    assert log.offsets.tolist() == [0, 0, 0, 2, 4]
    assert log.items.tolist() == [5, 3, 3, 9]


def test_precision_by_the_fewer_of_k_and_relevant_items():
    per_user = {"recall@4": torch.tensor([0.5, 0.0, 0.3]), "precision@4": torch.tensor([0.25, 0.0, 0.75])}
    # One of two found; nothing found; three of ten found, of which four fit.
    assert with_precision_min(per_user, [4])["precision_min@4"].tolist() == pytest.approx([0.5, 0.0, 0.75])


def test_short_answers_are_filled_with_popular_items_that_are_new_to_the_user():
    found = torch.tensor([[7, -1, -1, -1], [4, 5, 6, 7]])
    seen = torch.tensor([[9, 3], [2, -1]])
    answers = filled(found, seen, popular=torch.tensor([9, 7, 4, 3, 2, 6, 8]))
    assert answers.tolist() == [[7, 4, 2, 6], [4, 5, 6, 7]]


def test_rows_of_new_users_choose_twice_each_and_are_asked_about_the_same_users():
    for name, runs in cold.variants("kuairand-cold").items():
        assert len(runs) == (1 if name == "popularity" else 2)
        if name not in ("popularity", "cluster_popularity"):
            assert tuple(run.training.learning_rate for run in runs) == cold.RATES
            assert len({run.training.epochs for run in runs}) == 1
        for run in runs:
            assert Run.from_dict(tomllib.loads(run.to_toml())) == run
            assert (run.data, run.evaluation) == (cold.DATA, cold.JUDGED)
            assert run.model.settings.get("history_length", 0) <= 50
    assert "seed" in cold.DATA.split_options, "every seed draws its own users"


def tiny_cold(data: str) -> dict[str, list[Run]]:
    return {
        name: [replace(tiny(run), training=replace(run.training, epochs=2, device="cpu")) for run in runs]
        for name, runs in cold.variants(data).items()
        if name in ("popularity", "cluster_popularity", "dssm", "deezernet")
    }


@pytest.mark.slow
def test_the_table_of_new_users_from_data_to_figures(prepared, tmp_path):
    table = replace(cold.TABLE, variants=tiny_cold)
    data = {"tiny": prepared}
    chosen = run_table(table, data, tmp_path, seeds=2)
    found = {(figure.variant, figure.metric): figure for figure in summarise(table, data, chosen, 2, tmp_path)["tiny"]}
    for name in tiny_cold("tiny"):
        assert 0.0 < found[name, "recall@50"].mean <= 1.0
    assert found["deezernet", "recall@50"].p_users is not None
    # Two seeds ask other users; of one seed every row asks the same ones.
    asked = {
        (path.parent.name, path.name.split("-")[1]): tuple(load_file(path)["users"].tolist())
        for path in (tmp_path / "tiny").glob("*/seed-[12]-*.safetensors")
    }
    assert asked["dssm", "1"] == asked["popularity", "1"]
    assert asked["dssm", "1"] != asked["dssm", "2"]
