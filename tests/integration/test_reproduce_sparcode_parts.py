"""SparCode's smaller tables on a tiny data set: every row trains, and rows differ in what they are named for alone."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from twotower.data.dataset import Dataset
from twotower.experiment.run import Run
from twotower.reproduce.sparcode import codebooks, parts_picture, scorers, sparsity, sparsity_picture, trees, tries
from twotower.reproduce.sparcode import measure as measuring
from twotower.reproduce.study import Table, run_table, seeded
from twotower.reproduce.summary import summarise
from twotower.reproduce.tables import TABLES

PARTS: tuple[Table, ...] = tuple(
    table for module in (scorers, codebooks, sparsity, trees, tries) for table in module.TABLES
)
ROWS = [(table.name, data, row) for table in PARTS for data in table.data[:2] for row in table.variants(data)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    from twotower.data import sources
    from twotower.data.prepare.prepare import prepare
    from twotower.data.prepare.spec import Spec
    from twotower.data.sources.synthetic import Synthetic

    folder = tmp_path_factory.mktemp("data")
    spec = sources.get("synthetic", folder / "raw", settings=Synthetic(users=90, items=120, cold_items=3, events=14))
    return prepare(Spec.from_toml(spec), folder / "prepared")


@pytest.fixture(autouse=True)
def lists_that_fit(monkeypatch):
    monkeypatch.setattr(measuring, "SPARSITIES", ((0.0, 98.0), (99.0,)))
    monkeypatch.setattr(measuring, "CODES", (12, 12))


def tiny(run: Run) -> Run:
    settings = dict(run.model.settings)
    if run.model.name.startswith("sparcode"):
        settings |= {"dim": 8, "layers": 1}
    if run.model.name == "sparcode":
        settings |= {"codebook": min(8, settings.get("codebook", 8)), "warm_up": 1.0}
    if run.model.name == "sparcode" and "hidden" in settings:
        settings |= {"hidden": [8, 8]}
    if run.model.name == "tdm":
        settings |= {"dim": 8, "negatives": 8, "round_epochs": 0.5}
    sources = tuple(replace(source, settings={"number": 30}) for source in run.sampling.sources if source.settings)
    sampling = replace(run.sampling, sources=sources or run.sampling.sources)
    training = replace(run.training, epochs=2, batch_size=256, device="cpu")
    return replace(run, model=replace(run.model, settings=settings), sampling=sampling, training=training)


@pytest.mark.slow
@pytest.mark.parametrize(("table", "data", "row"), ROWS)
def test_every_row_trains_and_is_judged(prepared, table, data, row):
    run = tiny(TABLES[table].variants(data)[row][0])
    found = TABLES[table].measure(seeded(run, 1), Dataset.load(prepared))
    assert 0.0 < found.metrics["recall@50"] <= 1.0
    for view, (of, prefix) in TABLES[table].views.items():
        if of == row and prefix in ("0/", "beam/"):
            assert found.metrics[f"{prefix}recall@50"] > 0.0, view


def test_rows_can_be_written_and_views_are_of_rows():
    for table in PARTS:
        for data in table.data:
            rows = table.variants(data)
            assert table.reference in rows
            assert data in tries.NEW_USERS or "item_lists" in rows  # new users have nothing to count by
            assert {of for of, _ in table.views.values()} <= set(rows)
            assert set(table.notes) <= {*rows, *tries.of_new_users()}
            written = [run.to_toml() for runs in rows.values() for run in runs]
            assert len(set(written)) == len(written)
            for runs in rows.values():
                for run in runs:
                    assert Run.from_dict(tomllib.loads(run.to_toml())) == run
                    if run.model.settings.get("codes") != "none" and run.model.name == "sparcode":
                        assert run.model.settings["warm_up"] * 2 == run.training.epochs


def test_rows_differ_in_what_they_are_named_for_alone():
    def differences(rows: dict[str, list[Run]], names: list[str]) -> set[str]:
        settings = [rows[name][0].model.settings for name in names]
        rest = {str((rows[name][0].training, rows[name][0].objective, rows[name][0].sampling)) for name in names}
        assert len(rest) == 1
        return {key for one in settings for key in one if len({str(other.get(key)) for other in settings}) > 1}

    rows = scorers.variants("ml-1m")
    assert differences(rows, [name for name in rows if name.startswith("sparcode")]) == {"scorer"}
    assert {len(runs) for name, runs in rows.items() if name != "item_lists"} == {2}
    rows = codebooks.by_codebooks("ml-1m")
    assert differences(rows, [name for name in rows if name.startswith("books")]) == {"books", "codebook"}
    rows = codebooks.by_tokens("ml-1m")
    assert differences(rows, [name for name in rows if name.startswith("tokens")]) == {"tokens"}
    assert {run.to_toml() for run in rows["tokens_4"]} != {run.to_toml() for run in rows["tokens_8"]}
    rows = trees.variants("ml-1m")
    assert differences(rows, ["mlp_likeness_first", "mlp_likeness_in_turn"]) == {"rounds"}
    for data in ("ml-1m", "kuairand-cold"):
        rows = tries.variants(data)
        for pair in (["twin", "twin_no_ids"], ["sparcode", "sparcode_all_negatives"]):
            names = {name: [replace(run, objective=rows[pair[0]][0].objective) for run in rows[name]] for name in pair}
            same = {name: [replace(run, sampling=rows[pair[0]][0].sampling) for run in names[name]] for name in pair}
            assert differences(same, pair) == ({"item_id"} if pair[0] == "twin" else set())


def test_a_curve_begins_at_the_model_itself_and_says_what_a_search_takes(prepared):
    run = seeded(tiny(sparsity.variants("ml-1m")["quantised"][0]), 1)
    found = measuring.measure_curve(run, Dataset.load(prepared))
    torch.testing.assert_close(found.per_user["0/recall@50"], found.per_user["recall@50"])
    lengths = [found.metrics[f"{percent:g}/mean_list"] for percent in measuring.CURVE]
    assert lengths == sorted(lengths, reverse=True)
    assert all(found.metrics[f"{percent:g}/microseconds"] > 0.0 for percent in measuring.CURVE)
    # One bias lists as many pairs in all, but not as many in each list.
    for percent in measuring.CURVE:
        one, other = (found.metrics[f"{kind}{percent:g}/mean_list"] for kind in ("", "bias"))
        assert other == pytest.approx(one, rel=0.05)
    assert found.metrics["bias98/longest"] > found.metrics["98/longest"] == 2.0
    assert found.metrics["98/empty"] == 0.0 < found.metrics["bias98/empty"]
    torch.testing.assert_close(found.per_user["bias0/recall@50"], found.per_user["recall@50"])
    assert not [name for name in measuring.measure(run, Dataset.load(prepared)).metrics if "microseconds" in name]


def test_a_picture_has_a_line_for_each_kind_of_lists(tmp_path):
    pytest.importorskip("matplotlib")
    figures = [
        {"variant": f"{row}/{how}{percent} %", "metric": metric, "mean": value}
        for row, how in (("gate", ""), ("gate", "one bias "), ("nominate", ""))
        for percent, length in ((98, 78.0), (99, 39.0))
        for metric, value in (("mean_list", length), ("recall@50", length / 100), ("microseconds", 20.0))
    ]
    figures.append({"variant": "gate", "metric": "recall@50", "mean": 0.3})
    lines = sparsity_picture.lines_of(figures, "recall@50")
    assert lines["gate, one bias"] == [(39.0, 0.39), (78.0, 0.78)]
    assert set(lines) == {"gate, best of each code", "gate, one bias", "nominate, best of each code"}
    (tmp_path / "sparcode-sparsity.json").write_text(json.dumps({"figures": {"ml-1m": figures}}))
    written = sparsity.draw_each(sparsity.TABLE, {}, {}, tmp_path)
    assert [path.name for path in written] == ["sparcode-sparsity-ml-1m-lists.svg"]
    assert "<svg" in written[0].read_text()


def test_pictures_of_codebooks_and_tokens_have_a_point_for_each_seed(tmp_path):
    pytest.importorskip("matplotlib")
    named = {"books_1_codes_64": [0.2, 0.4, 0.3], "books_2_codes_16": [0.5], "books_1_codes_64/lists 98 %": [0.1]}
    figures = [{"variant": name, "metric": "recall@50", "values": values} for name, values in named.items()]
    figures += [{"variant": "books_1_codes_64", "metric": "ndcg@50", "values": [0.9]}]
    axis = parts_picture.AXES["sparcode-codebooks"]
    assert parts_picture.points_of(figures, axis) == {"1": {64: [0.2, 0.4, 0.3]}, "2": {16: [0.5]}}
    level = {"variant": "no_codes", "metric": "recall@50", "values": [0.6], "mean": 0.6}
    tokens = [{"variant": f"tokens_{n}", "metric": "recall@50", "values": [0.1 * n], "mean": 0.0} for n in (1, 2)]
    for table, given in ((codebooks.CODEBOOKS, [*figures, level]), (codebooks.BY_TOKENS, tokens)):
        for figure in given:
            figure.setdefault("mean", 0.0)
        (tmp_path / f"{table.name}.json").write_text(json.dumps({"figures": {"ml-1m": given}}))
        written = table.extras(table, {}, {}, tmp_path)
        assert [path.name for path in written] == [f"{table.name}-ml-1m-parts.svg"]
        assert "<svg" in written[0].read_text()


@pytest.mark.slow
def test_a_small_table_from_data_to_figures(prepared, tmp_path):
    def rows(data: str) -> dict[str, list[Run]]:
        return {name: [tiny(run) for run in runs] for name, runs in codebooks.by_tokens(data).items()}

    table = replace(codebooks.BY_TOKENS, variants=rows, views={"tokens_4/lists": ("tokens_4", "0/")})
    chosen = run_table(table, {"tiny": prepared}, tmp_path, seeds=2)
    found = {
        (one.variant, one.metric): one for one in summarise(table, {"tiny": prepared}, chosen, 2, tmp_path)["tiny"]
    }
    assert found["tokens_4/lists", "recall@50"].mean == pytest.approx(found["tokens_4", "recall@50"].mean, abs=0.01)
    assert found["tokens_1", "recall@50"].p_users is not None
