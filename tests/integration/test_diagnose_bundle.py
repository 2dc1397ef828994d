"""`twotower diagnose TABLE --bundle B`: the collapse paper's case, planted in a trained two-tower, and its opposite."""

from __future__ import annotations

import csv
import json
import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest
import torch

from twotower.audit.causes import diagnose_table
from twotower.audit.causes_recall import degrade
from twotower.cli.main import main
from twotower.core.schema import Feature
from twotower.data.dataset import Dataset
from twotower.data.prepare.prepare import prepare
from twotower.data.sources.synthetic import Synthetic, write_synthetic
from twotower.experiment.recipes import default_run
from twotower.experiment.run import Run
from twotower.experiment.train import train
from twotower.models.base import Model

Capture = pytest.CaptureFixture[str]
Row = dict[str, Any]

SETTINGS = [
    "model.dim=16",
    "model.field_dim=8",
    "model.hidden=[32]",
    "model.temperature=0.2",
    "model.learn_temperature=false",
    "training.learning_rate=0.003",
    "training.batch_size=128",
    "training.epochs=5",
]
CONSTANT = {"title": "Star orbit moon", "genre": "space", "tags": "space|war", "year": "1999"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``items.csv``, ``users.csv``, prepared data, and a bundle that reads features alone."""
    folder = tmp_path_factory.mktemp("causes")
    (folder / "raw").mkdir()
    spec = write_synthetic(folder / "raw", Synthetic(users=150, items=240, cold_items=0, events=15))
    data = prepare(replace(spec, folder=folder / "raw"), folder / "prepared")
    train(Run().with_settings([f"data.path={data}", "model.item_id=false", *SETTINGS]), to=folder / "features")
    for side, lists in (("items", "tags"), ("users", "topics")):
        flat = f"SELECT * REPLACE (array_to_string({lists}, '|') AS {lists}) FROM '{folder / 'raw' / side}.parquet'"
        duckdb.sql(f"COPY ({flat}) TO '{folder / side}.csv' (HEADER)")
    return folder


@pytest.fixture
def table(trained: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write items.csv, or another, with every row changed; ``new`` gives ids that nobody knows."""

    def write(changes: Row | None = None, *, new: bool = True, source: str = "items.csv", rows: int = 240) -> Path:
        with (trained / source).open(newline="") as file:
            found = list(csv.DictReader(file))[:rows]
        key = next(iter(found[0]))
        for row in found:
            row.update(changes or {})
            if new:
                row[key] = "new-" + row[key]
        target = tmp_path / "table.csv"
        with target.open("w", newline="") as file:
            writer = csv.DictWriter(file, found[0])
            writer.writeheader()
            writer.writerows(found)
        return target

    return write


def call(capsys: Capture, *words: object) -> tuple[int, str, str]:
    """Run the command line in this process: exit status, standard output and standard error."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    told = capsys.readouterr()
    return int(str(stop.value.code)), told.out, told.err


def found_of(capsys: Capture, table: Path, bundle: Path, *more: str) -> tuple[int, dict[str, Any]]:
    status, out, _ = call(capsys, "diagnose", table, "--bundle", bundle, "--json", *more)
    return status, json.loads(out)


def test_a_healthy_table_is_healthy_and_blames_nobody(
    trained: Path, table: Callable[..., Path], capsys: Capture
) -> None:
    for new in (False, True):
        status, found = found_of(capsys, table(new=new), trained / "features")
        assert (status, found["verdict"]) == (0, "healthy")
        assert [cause["feature"] for cause in found["causes"] if cause["to_blame"] or cause["drifted"]] == []
        assert found["serving"]["at_fault"] is None
        assert found["serving"]["recall"] is None
        assert found["serving"]["texts"]["gain"] > 0.2
        assert found["serving"]["known_rows"] == (0 if new else 240)


@pytest.mark.parametrize(
    "changes",
    [
        {"title": "", "genre": "", "tags": ""},
        {name: CONSTANT[name] for name in ("title", "genre", "tags")},
        {"title": "", "genre": "space", "tags": ""},
        CONSTANT,
    ],
    ids=["empty", "constant", "both", "everything"],
)
def test_empty_or_constant_features_collapse_and_are_named(
    changes: Row, trained: Path, table: Callable[..., Path], capsys: Capture
) -> None:
    status, found = found_of(capsys, table(changes), trained / "features")
    assert (status, found["verdict"]) == (3, "collapsed")
    assert set(found["serving"]["to_blame"]) == set(changes)
    count = len(changes)
    assert [cause["to_blame"] for cause in found["causes"]] == [True] * count + [False] * (5 - count)
    by_name = {cause["feature"]: cause for cause in found["causes"]}
    for name, value in changes.items():
        cause = by_name[name]
        assert cause["constant"] == 1.0
        assert cause["missing"] == (0.0 if value else 1.0)
        assert cause["training_variance_share"] > 0.05
        assert cause["variance_share"] in (None, 0.0)
        assert cause["entropy"] < cause["training_entropy"] or name in ("title", "tags")
        assert cause["js_divergence"] > 0.5
        assert set(cause["restored"]) == set(cause["removed"]) >= {"verdict", "mean_cosine", "rankme"}
        assert cause["restored"]["mean_cosine"] < found["statistics"]["mean_cosine"]
    assert found["serving"]["restored"]["verdict"] == "healthy"
    assert found["serving"]["at_fault"] == "item"
    towers = found["serving"]["towers"]
    assert (towers["item"]["now"]["verdict"], towers["item"]["training"]["verdict"]) == ("collapsed", "healthy")


def test_recall_lost_is_that_of_a_degraded_catalogue(
    trained: Path, table: Callable[..., Path], capsys: Capture
) -> None:
    _, found = found_of(capsys, table({"title": "", "genre": "", "tags": ""}), trained / "features")
    recall = found["serving"]["recall"]
    assert recall["metric"] == "recall@10"
    assert set(recall["features"]) == {"title", "genre", "tags"}
    manifest = json.loads((trained / "features" / "manifest.json").read_text())
    assert recall["before"]["value"] == pytest.approx(manifest["metrics"]["recall@10"], abs=1e-9)
    assert recall["after"]["value"] < recall["before"]["value"] / 2
    assert recall["lost"]["value"] == pytest.approx(recall["before"]["value"] - recall["after"]["value"])
    for part in ("before", "after", "lost"):
        low, high = recall[part]["interval"]
        assert low <= recall[part]["value"] <= high
    assert recall["lost"]["interval"][0] > 0
    assert recall["p_value"] < 0.01


def test_one_empty_feature_is_told_and_no_other_is_blamed(
    trained: Path, table: Callable[..., Path], capsys: Capture
) -> None:
    _, found = found_of(capsys, table({"genre": ""}), trained / "features")
    assert found["serving"]["drifted"] == ["genre"]
    assert set(found["serving"]["to_blame"]) <= {"genre"}


def test_words_that_training_never_saw_are_unknown(trained: Path, table: Callable[..., Path], capsys: Capture) -> None:
    _, found = found_of(capsys, table({"title": "quux frobnicate"}), trained / "features")
    title = next(cause for cause in found["causes"] if cause["feature"] == "title")
    assert (title["unknown"], title["training_unknown"]) == (1.0, 0.0)
    assert "never seen in training" in title["reason"]


@pytest.mark.slow
def test_ids_hide_what_features_lost(
    trained: Path, table: Callable[..., Path], tmp_path: Path, capsys: Capture
) -> None:
    train(Run().with_settings([f"data.path={trained / 'prepared'}", *SETTINGS]), to=tmp_path / "ids")
    empty = {"title": "", "genre": "", "tags": "", "year": ""}
    _, known = found_of(capsys, table(empty, new=False), tmp_path / "ids")
    id = next(cause for cause in known["causes"] if cause["feature"] == "id")
    assert (id["kind"], id["unknown"], id["drifted"]) == ("id", 0.0, False)
    assert id["variance_share"] > 0.9
    assert id["removed"]["verdict"] == "collapsed"
    assert any("healthy by the ids alone" in note for note in known["notes"]) == (known["verdict"] == "healthy")
    status, new = found_of(capsys, table(empty), tmp_path / "ids")
    assert status == 3
    id = next(cause for cause in new["causes"] if cause["feature"] == "id")
    assert (id["unknown"], id["drifted"]) == (1.0, True)


@pytest.mark.slow
def test_users_about_to_be_served(trained: Path, table: Callable[..., Path], capsys: Capture) -> None:
    status, found = found_of(
        capsys, table(new=False, source="users.csv", rows=150), trained / "features", "--side", "user"
    )
    assert found["serving"]["to_blame"] == found["serving"]["drifted"] == []
    empty = table({"age": "", "segment": "", "topics": ""}, source="users.csv", rows=150)
    status, found = found_of(capsys, empty, trained / "features", "--side", "user")
    assert status == 3
    assert found["serving"]["at_fault"] == "user"
    assert set(found["serving"]["drifted"]) == {"age", "segment", "topics", "history"}
    assert {"segment", "topics"} <= set(found["serving"]["to_blame"])


@pytest.mark.usefixtures("quick_map")
def test_a_table_far_from_training_where_answers_are_at_chance_is_not_healthy(
    trained: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Titles of another domain, in groups; what else the model reads is spread and has nothing to do with them."""
    with (trained / "items.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows):
        group = number * 7 % 12
        row |= {"item_id": f"far-{number}", "title": f"kraut{group} ruebe{group} topf{group} pfanne{number % 5}"}
    draw = random.Random(0)
    draw.shuffle(others := [{name: row[name] for name in row if name not in ("item_id", "title")} for row in rows])
    far = tmp_path / "far.csv"
    with far.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(row | other for row, other in zip(rows, others, strict=True))
    page = tmp_path / "page.html"
    limits = tmp_path / "limits.toml"
    limits.write_text("[rank]\nsuspect = 4.0\n")  # the title is gone, which rank would see by a hair
    more = ("--html", str(page), "--thresholds", str(limits))
    status, found = found_of(capsys, far, trained / "features", *more)
    assert found["serving"]["towers"]["item"]["now"]["verdict"] == "healthy", "geometry alone does not see it"
    assert (status, found["verdict"]) == (0, "suspect")
    assert [reason["name"] for reason in found["reasons"]] == ["at_chance"]
    assert found["serving"]["texts"]["gain"] < 0.05
    assert found["serving"]["at_fault"] == "item"
    assert "answers are at chance" in page.read_text(encoding="utf-8")


def test_a_person_reads_who_is_to_blame(trained: Path, table: Callable[..., Path], capsys: Capture) -> None:
    status, out, _ = call(
        capsys, "diagnose", table({"genre": "", "title": "", "tags": ""}), "--bundle", trained / "features"
    )
    shown = " ".join(out.split())
    assert status == 3
    assert "COLLAPSED" in shown
    for name in ("genre", "title", "tags"):
        assert f"{name}: missing in every row (0% in training)" in shown
    assert "the item tower is at fault" in shown
    assert "recall@10 on the test split" in shown
    _, out, _ = call(capsys, "diagnose", table(), "--bundle", trained / "features")
    assert "no feature is to blame" in out


@pytest.mark.usefixtures("quick_map")
def test_the_page_of_a_table_holds_verdict_and_causes(
    trained: Path, table: Callable[..., Path], tmp_path: Path, capsys: Capture
) -> None:
    page = tmp_path / "report.html"
    items = table({"genre": "", "title": "", "tags": ""})
    status, _, _ = call(capsys, "diagnose", items, "--bundle", trained / "features", "--html", page)
    assert status == 3
    text = page.read_text(encoding="utf-8")
    words = " ".join(re.sub(r"<[^>]+>", " ", re.sub(r"(?s)<(script|style).*?</\\1>", "", text)).split())
    assert "collapsed" in words.lower()[:600], "the verdict stands on top"
    causes = re.search(r'(?s)<h2 id="causes">.*?</section>', text)
    assert causes is not None
    for name in ("genre", "title", "tags", "year"):
        assert name in causes[0]
    assert "missing in every row" in causes[0]
    assert "new-" in text, "the table's own ids"


@pytest.mark.usefixtures("quick_map")
def test_the_page_of_a_bundle_holds_its_verdict(trained: Path, tmp_path: Path, capsys: Capture) -> None:
    page = tmp_path / "report.html"
    status, out, _ = call(capsys, "diagnose", trained / "features", "--html", page, "--json")
    verdict = json.loads(out)["verdict"]
    assert status == (3 if verdict == "collapsed" else 0)
    text = page.read_text(encoding="utf-8")
    assert verdict in text.lower()
    assert "genre" in text, "items are coloured by the raw columns that the bundle keeps"


def test_columns_that_nobody_reads_and_columns_that_are_not_there(
    trained: Path, table: Callable[..., Path], capsys: Capture, tmp_path: Path
) -> None:
    other = tmp_path / "other.parquet"
    duckdb.sql(f"COPY (SELECT * EXCLUDE (genre), 1 AS stock FROM '{table()}') TO '{other}' (FORMAT parquet)")
    _, found = found_of(capsys, other, trained / "features")
    assert "columns that the bundle does not read: stock" in found["notes"]
    assert "no column for genre: missing in every row" in found["notes"]
    assert next(cause for cause in found["causes"] if cause["feature"] == "genre")["missing"] == 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("item_id,genre\n", "no rows"),
        ("item_id,genre\na,space\n", "1 row; a geometry needs at least two"),
        ("code,genre\na,space\nb,war\n", "no column 'item_id'"),
        ("item_id,colour\na,red\nb,blue\n", "none of the columns"),
        ("", "the file is empty"),
    ],
)
def test_a_bad_table_is_one_line_and_status_2(
    text: str, message: str, trained: Path, tmp_path: Path, capsys: Capture
) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text(text)
    status, out, err = call(capsys, "diagnose", bad, "--bundle", trained / "features", "--json")
    assert (status, out) == (2, "")
    (line,) = err.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_wrong_bundles_are_one_line_and_status_2(
    trained: Path, table: Callable[..., Path], tmp_path: Path, capsys: Capture
) -> None:
    items = table()
    for bundle, message in (
        (trained / "prepared", "prepared data, not a bundle"),
        (tmp_path / "nowhere", "no such bundle"),
    ):
        status, out, err = call(capsys, "diagnose", items, "--bundle", bundle)
        assert (status, out) == (2, "")
        assert message in err
        assert len(err.strip().splitlines()) == 1
    status, out, err = call(capsys, "diagnose", trained / "prepared", "--bundle", trained / "features")
    assert (status, out) == (2, "")
    assert "a folder; beside a bundle, give a table of items" in err
    assert call(capsys, "diagnose", items, "--bundle", trained / "features", "--side", "query")[0] == 2
    assert call(capsys, "diagnose", items, "--bundle", trained / "features", "--column", "x")[0] == 2
    assert call(capsys, "diagnose", tmp_path / "none.csv", "--bundle", trained / "features")[0] == 2


@pytest.mark.parametrize("name", ["popularity", "random", "sasrec"])
def test_a_model_that_reads_no_item_features_is_refused(
    name: str, titled_dataset: Dataset, write: Callable[..., Model], tmp_path: Path, capsys: Capture
) -> None:
    write(tmp_path / "bundle", titled_dataset, name)
    (tmp_path / "items.csv").write_text("id,brand\na,brand2\nb,brand3\n")
    status, _, err = call(capsys, "diagnose", tmp_path / "items.csv", "--bundle", tmp_path / "bundle")
    assert status == 2
    assert f"'{name}' " in err
    assert len(err.strip().splitlines()) == 1


def test_a_bundle_without_item_features_is_refused(
    titled_dataset: Dataset, write: Callable[..., Model], tmp_path: Path, capsys: Capture
) -> None:
    bare = replace(titled_dataset, schema=replace(titled_dataset.schema, item_features=()), item_features={})
    write(tmp_path / "bundle", bare)
    (tmp_path / "items.csv").write_text("id,brand\na,brand2\nb,brand3\n")
    status, _, err = call(capsys, "diagnose", tmp_path / "items.csv", "--bundle", tmp_path / "bundle")
    assert status == 2
    assert "its items have no features" in err


def test_a_bundle_without_histories_still_tells_the_cause(
    titled_dataset: Dataset, write: Callable[..., Model], tmp_path: Path
) -> None:
    write(tmp_path / "bundle", titled_dataset, histories=None)
    (tmp_path / "items.csv").write_text("id,brand\na,brand2\nb,brand3\nc,brand4\n")
    found = diagnose_table(tmp_path / "items.csv", tmp_path / "bundle")
    assert found.serving["recall"] is None
    assert any("recall not measured" in note for note in found.notes)
    assert found.serving["towers"]["user"]["now"] is None


def test_degrade_takes_known_rows_as_they_are_and_draws_for_the_others() -> None:
    stored = torch.tensor([0, 1, 2, 3, 4, 5, 2, 3, 4, 5] * 4)
    brand = Feature("brand", "categorical", 6)
    rows = torch.tensor([5, 1, 1, 1])
    half = torch.tensor([4, 0, 0, 0])
    found = degrade(brand, stored, rows, {"brand": half}, seed=0)
    assert found[5] == 4
    others = torch.tensor([row for row in range(2, 40) if row != 5])
    gone = (found[others] == 0).double().mean().item()
    assert 0.5 < gone < 0.95, "three in four rows of the table miss it"
    kept = others[found[others] != 0]
    assert torch.equal(found[kept], stored[kept]), "what is sound in the table changes nothing"
    assert found[:2].tolist() == [0, 1]


def test_users_of_fit_are_judged_on_the_average_of_their_queries(trained: Path, tmp_path: Path) -> None:
    """End to end a user's states under 64 queries of 128 numbers have 8,192, whose principal axes take minutes."""
    settings = ["model.dim=8", "model.field_dim=4", "model.hidden=[16]", "model.meta_queries=20", "training.epochs=2"]
    run = default_run("fit").with_settings([f"data.path={trained / 'prepared'}", *settings])
    train(run, to=tmp_path / "fit")
    found = diagnose_table(trained / "items.csv", tmp_path / "fit")
    assert 1 < found.serving["towers"]["user"]["now"]["rankme"] <= 8
