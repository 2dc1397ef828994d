"""The tables of FIT on a tiny data set: every variant can be built, trained, judged, and comes out as a row."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch

from twotower.core.errors import InputError
from twotower.core.files import read_json, write_json
from twotower.core.schema import Feature, Schema
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.data.pairs import PairRows
from twotower.experiment.labelled_pairs import pairs_of
from twotower.models.registry import build_model
from twotower.reproduce import fit, fit_exposures, fit_extras, fit_query_start, fit_users
from twotower.reproduce.fit_costs import cost_sheet, epoch_seconds, grown
from twotower.reproduce.fit_extras import costs_and_map
from twotower.reproduce.fit_measure import best_epoch, measure, query_similarity
from twotower.reproduce.fit_picture import query_map, query_points, write_picture
from twotower.reproduce.sets import without_text
from twotower.reproduce.study import run_table, seeded
from twotower.reproduce.tables import TABLES
from twotower.towers.heads import Heads
from twotower.training.callbacks import EpochRecord

SMALL = {"field_dim": 4, "hidden": [12, 8]}
SIZES = {"two_tower": {"dim": 8, "hidden": [12]}, "dat": {"dim": 8, "hidden": [12]}, "cold": {}}
LISTED = (*fit.TABLES, *fit_query_start.TABLES, *fit_users.TABLES, *fit_exposures.TABLES)


@pytest.fixture(scope="module")
def dataset():
    """Sixty users and 40 items with a category and a text."""
    generator = torch.Generator().manual_seed(2)
    items = torch.cat([2 + torch.randperm(40, generator=generator)[:12] for _ in range(60)])
    offsets = torch.cat([torch.zeros(3, dtype=torch.int64), 12 * torch.arange(1, 61)])
    features = {
        "kind": torch.randint(2, 5, (42,), generator=generator),
        "words": torch.randint(2, 9, (42, 3), generator=generator),
    }
    schema = Schema(62, 42, (), (Feature("kind", "categorical", 5), Feature("words", "text", 9, width=3)))
    return Dataset(schema, Log(offsets, items), {}, features, {"name": "tiny"})


def tiny(run):
    """The run with few epochs, small layers and as many queries as a tiny catalogue bears."""
    if run.model.name == "popularity":
        return replace(run, training=replace(run.training, device="cpu"))
    settings = run.model.settings | SMALL | SIZES.get(run.model.name, {})
    if settings.get("meta_queries", 64) > 6:
        settings = settings | ({"meta_queries": 6} if run.model.name == "fit" else {})
    if run.model.name == "int_tower":
        settings |= {"dim": 16, "item_heads": 2, "user_heads": 2}
    if run.model.name == "rank_tower":
        settings |= {"dim": 16}
    return replace(
        run,
        model=replace(run.model, settings=settings),
        training=replace(run.training, epochs=2, batch_size=256, device="cpu"),
    )


@pytest.mark.parametrize("table", LISTED, ids=lambda table: table.name)
def test_every_variant_is_a_model_of_the_right_size(table, dataset):
    large = Schema(10, 600, (), ())
    for data in table.data:
        rows = dict(table.variants(data))
        assert [run.model.name for run in rows.pop("popularity")] == ["popularity"]
        for name, runs in rows.items():
            for run in runs:
                built = build_model(run.model.name, large, run.model.settings)
                if table.name == "fit-fixed":
                    assert (getattr(built, "bias", None) is not None) == (name == "int_tower_small_start")
                    assert float(built.logit_scale()) == 1.0
                    assert not any("log_scale" in key for key, _ in built.named_parameters())
                    raw = {"fit": False, "two_tower_din": False, "two_tower_fields": True}
                    for heads in (part for part in built.modules() if isinstance(part, Heads) and name in raw):
                        assert heads.normalise == raw[name]  # the paper's two-tower has a cosine, its FIT has not
            assert len({len(other) for other in rows.values()}) == 1  # equal tuning
        assert table.reference in table.variants(data)


@pytest.mark.parametrize("table", ["fit", "fit-wide", "fit-ablations"])
def test_every_variant_gives_a_row(table, dataset):
    table = TABLES[table]
    rows = dict(table.variants("tiny"))
    counted = table.measure(seeded(tiny(rows.pop("popularity")[0]), 1), dataset)
    assert {"auc", "gauc", "recall@100"} <= set(counted.metrics)
    assert not {"log_loss", "seconds_per_epoch"} & set(counted.metrics)  # a count is no logit, and nothing is trained
    assert not counted.curves
    for name, runs in rows.items():
        measured = table.measure(seeded(tiny(runs[-1]), 1), dataset)
        beside = table.beside(measured.metrics, measured.metrics | {"auc": 0.6})
        assert set(fit.COLUMNS) <= {*measured.metrics, *beside}, name
        assert measured.per_user["gauc"].shape == (60,)
        able = [record.metrics["auc"] for record in measured.curves if "auc" in record.metrics and record.selectable]
        assert measured.validation == max(able)
        assert ("query_similarity" in measured.metrics) == (runs[0].model.settings.get("meta_queries", 1) > 0) or (
            runs[0].model.name != "fit"
        )


def test_the_epoch_of_a_cell_is_the_best_of_those_whose_weights_could_be_kept():
    """Epoch 1 has the best AUC, but soft queries; epoch 4 was not validated."""
    records = [
        EpochRecord(1, 10, 0.6, 0.1, 1.0, {"auc": 0.9}, selectable=False),
        EpochRecord(2, 20, 0.6, 0.1, 2.0, {"auc": 0.6}),
        EpochRecord(3, 30, 0.6, 0.1, 3.0, {"auc": 0.7}),
        EpochRecord(4, 40, 0.6, 0.1, 4.0),
        EpochRecord(5, 50, 0.6, 0.1, 5.0, {"auc": 0.5}),
    ]
    assert best_epoch(records) == 3
    assert best_epoch([replace(record, selectable=True) for record in records]) == 1
    never = [replace(record, selectable=False) for record in records]
    assert best_epoch(never) == 5  # as training does: where no epoch may be chosen, the last weights stay


def test_text_is_left_out(dataset):
    assert [feature.name for feature in without_text(dataset).schema.item_features] == ["kind"]


def test_soft_queries_end_up_as_hard_ones(dataset):
    """Figure 5: with the temperature's fall the similarity reaches 1; without it, it does not."""
    rows = fit.ablations("tiny")
    found = {
        name: measure(seeded(tiny(rows[name][0]), 1), dataset).metrics["query_similarity"]
        for name in ("fit", "soft_always")
    }
    assert found["fit"] > 0.999
    assert found["soft_always"] < found["fit"]


def test_the_query_similarity_is_that_of_the_formula(dataset):
    dataset = without_text(dataset)
    model = build_model("fit", dataset.schema, {**SMALL, "dim": 8, "meta_queries": 3})
    model.attach_items(dataset.all_items())
    model.query_temperature.fill_(0.3)
    queries = model.meta.hard().double().tolist()
    cosines = []
    for item in model.item_fields.of_ids(torch.arange(2, 42)).double().tolist():
        likeness = [sum(a * b for a, b in zip(item, query, strict=True)) for query in queries]
        weights = torch.softmax(torch.tensor(likeness, dtype=torch.float64) / 0.3, 0).tolist()
        soft = [sum(w * q[i] for w, q in zip(weights, queries, strict=True)) for i in range(len(item))]
        hard = queries[likeness.index(max(likeness))]
        dot = sum(a * b for a, b in zip(soft, hard, strict=True))
        cosines.append(dot / (sum(a * a for a in soft) * sum(b * b for b in hard)) ** 0.5)
    assert query_similarity(model, dataset) == pytest.approx(sum(cosines) / len(cosines), abs=1e-5)


def test_the_picture_of_items_and_queries(dataset, tmp_path):
    from xml.etree import ElementTree

    dataset = without_text(dataset)
    model = build_model("fit", dataset.schema, {**SMALL, "dim": 8, "meta_queries": 3})
    model.attach_items(dataset.all_items())
    points = query_points(model, dataset, items=30)
    assert torch.equal(points["chosen"], (points["items"] @ points["queries"].T).argmax(1))
    found = query_map(points)
    assert (found.items.shape, found.queries.shape, found.chosen.shape) == ((30, 2), (3, 2), (30,))
    assert torch.equal(found.items, query_map(query_points(model, dataset, items=30)).items)
    write_picture(found, tmp_path / "map.svg")
    root = ElementTree.parse(tmp_path / "map.svg").getroot()
    kinds = [element.tag.rpartition("}")[2] for element in root]
    assert kinds.count("circle") == 30
    assert kinds.count("path") == len(found.chosen.unique())
    bare = build_model("fit", dataset.schema, {**SMALL, "dim": 8, "meta_queries": 0})
    with pytest.raises(InputError, match="no meta queries"):
        query_points(bare, dataset)
    with pytest.raises(InputError, match="at least five"):
        query_map({name: value[:2] for name, value in points.items()})


def test_the_cost_sheet(dataset):
    """Every model answers; what is stored and how often the user's side runs are as each paper says."""
    runs = {name: tiny(choices[0]) for name, choices in fit.headline_all("tiny").items()}
    costs = cost_sheet(runs, without_text(dataset), requests=3, curve=(50, 100))
    assert {name: row["user_passes"] for name, row in costs.items()} == {
        "two_tower": 1,
        "two_tower_fields": 1,
        "two_tower_din": 1,
        "dat": 1,
        "cold": 40,  # one pass a candidate; there are 40 items
        "int_tower": 1,
        "rank_tower": 1,
        "fit": 6,
    }
    assert costs["two_tower"]["bytes_per_item"] == 8 * 4
    assert costs["fit"]["bytes_per_item"] == 128 * 4 + 1
    assert costs["cold"]["bytes_per_item"] == 0.0
    for name, row in costs.items():
        assert 0.0 < row["p50_ms"] <= row["p99_ms"], name
        assert row["candidates"] == 40
        assert row["seconds_per_epoch"] > 0.0, name
        assert list(row["p50_ms_by_candidates"]) == ["50", "100"]
        assert all(value > 0.0 for value in row["p50_ms_by_candidates"].values())
        built = build_model(runs[name].model.name, without_text(dataset).schema, runs[name].model.settings)
        assert row["parameters"] == sum(parameter.numel() for parameter in built.parameters())


def test_an_epoch_is_timed_by_its_steps(dataset, monkeypatch):
    """A clock that each batch moves: an epoch takes the seconds of its steps, the slow first ones left out."""
    run = tiny(fit.headline_all("tiny")["two_tower"][0])
    steps = -(-len(pairs_of(run, dataset).train) // run.training.batch_size)
    cut, taken = PairRows.cut, []

    def slow(rows, index):
        taken.append(50.0 if len(taken) < 3 else float(len(taken)))
        return cut(rows, index)

    monkeypatch.setattr(time, "perf_counter", lambda: sum(taken))
    monkeypatch.setattr(PairRows, "cut", slow)
    assert epoch_seconds(run, without_text(dataset)) == pytest.approx(steps * 6.5)  # steps of 3 to 10 seconds
    assert len(taken) == 3 + 8


def test_a_grown_catalogue_repeats_its_items(dataset):
    large = grown(dataset, 100)
    assert large.schema.num_items == 102
    kinds = dataset.item_features["kind"]
    assert large.item_features["kind"].tolist() == [*kinds[:2], *kinds[2:], *kinds[2:], *kinds[2:22]]
    assert grown(dataset, 10).item_features["words"].equal(dataset.item_features["words"])


def test_a_table_writes_its_costs_and_its_picture(dataset, tmp_path, monkeypatch):
    run = tiny(fit.headline_all("tiny")["fit"][1])
    table = replace(TABLES["fit"], variants=lambda data: {"fit": [run]})
    monkeypatch.setattr(Dataset, "load", lambda path: dataset)
    monkeypatch.setattr(fit_extras, "cost_sheet", lambda *given: cost_sheet(*given, requests=3, curve=(50, 100)))
    chosen = run_table(table, {"tiny": tmp_path}, tmp_path, seeds=1)
    assert not measure(seeded(run, 2), dataset).drawn  # one picture a table
    written = costs_and_map(table, {"tiny": tmp_path}, chosen, tmp_path)
    assert [path.name for path in written] == ["fit-costs.json", "fit-costs.md", "fit-tiny-queries.svg"]
    sheet = read_json(written[0])
    sheet["costs"]["tiny"]["cuda"] = sheet["costs"]["tiny"]["cpu"]
    sheet["machines"]["tiny"]["cuda"] = "a GPU elsewhere"
    write_json(written[0], sheet)
    assert costs_and_map(table, {"tiny": tmp_path}, chosen, tmp_path) == written
    assert read_json(written[0]) == sheet  # the same runs are not measured again, on whatever machine they were
    more = replace(table, variants=lambda data: {"fit": [run], "again": [run]})
    both = {"other": {"fit": run, "again": run}}
    costs_and_map(more, {"other": tmp_path}, both, tmp_path)
    assert read_json(written[0])["costs"]["tiny"] == sheet["costs"]["tiny"]  # another set joins, nothing is lost
    one = read_json(written[0])
    costs_and_map(more, {"other": tmp_path}, {"other": {"again": run}}, tmp_path)
    assert read_json(written[0]) == one  # nor by asking for less
    costs, page = sheet["costs"]["tiny"]["cpu"]["fit"], written[1].read_text()
    assert costs["user_passes"] == 6
    row = f"| fit | {costs['parameters']} | 513.000 | 6 | {costs['seconds_per_epoch']:.3f} | {costs['p50_ms']:.3f} |"
    assert [part.count(row) for part in page.split("\n## ") if part.startswith("tiny,")] == [1, 1]
    assert "## tiny, CPU with " in page
    assert "## tiny, a GPU elsewhere, 40 candidates a request" in page
    assert written[2].read_text().count("<circle") == 40
