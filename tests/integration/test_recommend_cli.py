"""`recommend` and `similar` from the command line: JSON for programs, tables for people, one line for mistakes."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from twotower.cli.main import main
from twotower.data.dataset import Dataset
from twotower.models.base import Model
from twotower.serving.retriever import load

Capture = pytest.CaptureFixture[str]
Write = Callable[..., Model]


def call(*words: object) -> int:
    """Run the command line in this process; returns the exit status."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert isinstance(stop.value.code, int)
    return stop.value.code


@pytest.fixture
def new_items(tmp_path: Path) -> Path:
    path = tmp_path / "new.csv"
    path.write_text("id,brand,title\nnew1,brand3,title2\nnew2,brand2,title4\n", encoding="utf-8")
    return path


def test_json_for_a_user(bundle_folder: Path, capsys: Capture) -> None:
    assert call("recommend", bundle_folder, "--user", "u4", "-k", 3, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    expected = load(bundle_folder).recommend(user="u4", k=3)
    assert told["query"] == {"user": "u4", "k": 3}
    assert told["items"] == [{"id": a.id, "score": a.score, **a.columns} for a in expected]
    assert [set(item) for item in told["items"]] == [{"id", "score", "title", "year"}] * 3


def test_json_for_a_history(bundle_folder: Path, capsys: Capture) -> None:
    words = ["recommend", bundle_folder, "--history", "i8, i2", "--exclude", "i3,i4", "-k", 8, "--json"]
    assert call(*words) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["query"] == {"history": ["i8", "i2"], "k": 8}
    assert sorted(item["id"] for item in told["items"]) == ["i5", "i6", "i7", "i9"]
    assert call(*words, "--include-seen") == 0
    assert len(json.loads(capsys.readouterr().out)["items"]) == 6


def test_a_person_sees_titles_and_what_the_user_did_last(bundle_folder: Path, capsys: Capture) -> None:
    assert call("recommend", bundle_folder, "--user", "u5", "-k", 2) == 0
    shown = capsys.readouterr().out
    assert "For user u5" in shown
    assert "Casablanca" in shown, "the only item of u5's history"
    for answer in load(bundle_folder).recommend(user="u5", k=2):
        assert answer.columns["title"] in shown
        assert f"{answer.score:.4f}" in shown


def test_json_for_an_item(bundle_folder: Path, capsys: Capture) -> None:
    assert call("similar", bundle_folder, "--item", "i4", "-k", 2, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["query"] == {"item": "i4", "k": 2}
    assert [item["id"] for item in told["items"]] == [a.id for a in load(bundle_folder).similar("i4", k=2)]


def test_a_file_in_and_a_file_out(bundle_folder: Path, new_items: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out.csv"
    assert call("similar", bundle_folder, "--items", new_items, "-k", 3, "--csv", out, "--json") == 0
    told = json.loads(capsys.readouterr().out)["items"]
    assert [(row["query"], row["rank"]) for row in told] == [(q, r) for q in ("new1", "new2") for r in (1, 2, 3)]
    with out.open(newline="") as file:
        written = list(csv.DictReader(file))
    assert written == [{name: str(value) for name, value in row.items()} for row in told]
    found = load(bundle_folder).similar_table(new_items, k=3)
    assert [row["id"] for row in told] == [answer.id for one in found for answer in one.answers]


def test_neighbours_among_the_file(bundle_folder: Path, new_items: Path, capsys: Capture) -> None:
    assert call("similar", bundle_folder, "--items", new_items, "-k", 1, "--among", "file") == 0
    shown = capsys.readouterr().out
    assert "Nearest to new1" in shown
    assert "Nearest to new2" in shown


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_neighbours_among_the_file_come_with_its_columns(
    suffix: str, bundle_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Titles of items that the bundle never saw are in the answers; those of a known one are laid over what is kept."""
    items, out = tmp_path / f"items.{suffix}", tmp_path / "near.csv"
    rows = "(VALUES ('new1', 'brand3', 'Jaws', '2'), ('i4', 'brand2', 'Kes', NULL), ('new2', 'brand2', 'Lolita', '4'))"
    form = {"csv": "FORMAT csv, HEADER", "jsonl": "FORMAT json", "parquet": "FORMAT parquet"}[suffix]
    duckdb.sql(f"COPY (SELECT * FROM {rows} AS t(id, brand, title, stock)) TO '{items}' ({form})")
    assert call("similar", bundle_folder, "--items", items, "-k", 2, "--among", "file", "--csv", out, "--json") == 0
    told = json.loads(capsys.readouterr().out)["items"]
    own = {row["id"]: (row["title"], row["brand"], row["stock"]) for row in told}
    assert own == {"new1": ("Jaws", "brand3", "2"), "i4": ("Kes", "brand2", None), "new2": ("Lolita", "brand2", "4")}
    assert {row.get("year") for row in told if row["id"] == "i4"} == {1974}, "kept by the bundle, not in the file"
    with out.open(encoding="utf-8", newline="") as file:
        assert [row["title"] for row in csv.DictReader(file)] == [row["title"] for row in told]


@pytest.mark.parametrize("name", ["ease", "item_cosine", "popularity"])
@pytest.mark.parametrize(
    "words",
    [
        ["similar", "BUNDLE", "--items", "NEW"],
        ["diagnose", "BUNDLE"],
        ["diagnose", "NEW", "--bundle", "BUNDLE"],
        ["diagnose", "BUNDLE", "--html", "PAGE"],
        ["remedy", "BUNDLE", "NEW", "--to", "CURED.csv"],
    ],
)
def test_a_model_without_item_vectors_is_refused_in_one_line(
    name: str, words: list[str], write: Write, titled_dataset: Dataset, new_items: Path, tmp_path: Path, capsys: Capture
) -> None:
    write(tmp_path / "bundle", titled_dataset, name)
    places = {"BUNDLE": tmp_path / "bundle", "NEW": new_items, "PAGE": tmp_path / "page.html"}
    assert call(*(places.get(word, tmp_path / word if word == "CURED.csv" else word) for word in words)) == 2
    told = capsys.readouterr()
    (line,) = told.err.strip().splitlines()
    assert line.startswith("error: ")
    assert "no item vectors" in line
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("name", ["int_tower", "rank_tower"])
def test_states_of_several_vectors_are_judged_end_to_end(
    name: str, write: Write, titled_dataset: Dataset, tmp_path: Path, capsys: Capture
) -> None:
    write(tmp_path / "bundle", titled_dataset, name)
    assert call("diagnose", tmp_path / "bundle", "--json") in (0, 3)
    assert json.loads(capsys.readouterr().out)["statistics"]["vectors"] == 8


def test_more_than_the_catalogue_holds(bundle_folder: Path, capsys: Capture, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert call("recommend", bundle_folder, "--user", "u3", "-k", 1000, "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["items"]) == 7
    assert "k = 1000, but there are 8 items" in caplog.text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["recommend", "BUNDLE"], "give either a user or a history"),
        (["recommend", "BUNDLE", "--history", " , "], "the history is empty"),
        (["recommend", "BUNDLE", "--user", "u22"], "unknown user 'u22'; did you mean 'u2'?"),
        (["recommend", "BUNDLE", "--history", "I3"], "unknown item 'I3'; did you mean 'i3'?"),
        (["recommend", "BUNDLE", "--user", "u2", "-k", "0"], "k must be at least 1, got 0"),
        (["recommend", "BUNDLE", "--user", "u2", "-k", "many"], "Invalid value for '-k'"),
        (["recommend", "BUNDLE", "--user", "u2", "--candidates", "5"], "name the pre-ranker's bundle by --then"),
        (["recommend", "BUNDLE", "--then", "BUNDLE", "--user", "u2", "--candidates", "0"], "of at least 1, got 0"),
        (["recommend", "BUNDLE", "--all", "--why", "--to", "a.parquet"], "--why explains the answers of one"),
        (["recommend", "DATA", "--user", "u2"], "prepared data, not a bundle; train on it"),
        (["recommend", "NOWHERE", "--user", "u2"], "no such bundle"),
        (["similar", "BUNDLE"], "give exactly one of --item and --items"),
        (["similar", "BUNDLE", "--item", "i2", "--items", "NEW"], "give exactly one of --item and --items"),
        (["similar", "BUNDLE", "--item", "i22"], "unknown item 'i22'; did you mean 'i2'?"),
        (["similar", "BUNDLE", "--item", "i2", "-k", "-3"], "k must be at least 1, got -3"),
        (["similar", "BUNDLE", "--items", "NOWHERE.csv"], "no such file"),
        (["similar", "BUNDLE", "--items", "NEW", "--among", "catalog"], "did you mean 'catalogue'?"),
        (["similar", "BUNDLE", "--items", "EMPTY"], "the file is empty"),
        (["similar", "BUNDLE", "--items", "HEADER"], "no rows"),
        (["similar", "BUNDLE", "--items", "NO_ID"], "no column 'id'"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    words: list[str],
    message: str,
    bundle_folder: Path,
    prepared_folder: Path,
    new_items: Path,
    tmp_path: Path,
    capsys: Capture,
) -> None:
    (tmp_path / "empty.csv").touch()
    (tmp_path / "header.csv").write_text("id,brand\n")
    (tmp_path / "no_id.csv").write_text("brand\nbrand2\n")
    places = {
        "BUNDLE": bundle_folder,
        "DATA": prepared_folder,
        "NEW": new_items,
        "NOWHERE": tmp_path / "nowhere",
        "NOWHERE.csv": tmp_path / "nowhere.csv",
        "EMPTY": tmp_path / "empty.csv",
        "HEADER": tmp_path / "header.csv",
        "NO_ID": tmp_path / "no_id.csv",
    }
    assert call(*(places.get(word, word) for word in words)) == 2
    told = capsys.readouterr()
    assert told.out == ""
    (line,) = told.err.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_a_changed_byte_and_a_newer_format_are_status_2(bundle_folder: Path, capsys: Capture) -> None:
    weights = bundle_folder / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert call("recommend", bundle_folder, "--user", "u2") == 2
    assert "weights.safetensors was changed after it was written" in capsys.readouterr().err
    weights.write_bytes(whole)
    manifest = json.loads((bundle_folder / "manifest.json").read_text())
    (bundle_folder / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    assert call("recommend", bundle_folder, "--user", "u2") == 2
    assert "format 99" in capsys.readouterr().err


def test_columns_called_id_and_score_do_not_hide_the_answer(
    titled_dataset: Dataset, write: Callable[..., Model], tmp_path: Path, capsys: Capture
) -> None:
    import duckdb

    assert titled_dataset.folder is not None
    path = titled_dataset.folder / "vocabulary" / "items.parquet"
    duckdb.sql(
        f"COPY (SELECT range AS row, 'i' || range AS id, 'raw' AS score, 7 AS query FROM range(2, 10)) TO '{path}'"
    )
    write(tmp_path / "bundle", titled_dataset)
    assert call("recommend", tmp_path / "bundle", "--user", "u2", "-k", 1, "--json") == 0
    (item,) = json.loads(capsys.readouterr().out)["items"]
    assert isinstance(item["score"], float)
    assert item["query"] == 7


def test_the_json_names_ids_that_were_left_aside(bundle_folder: Path, capsys: Capture) -> None:
    assert call("recommend", bundle_folder, "--history", "i2,gone", "--exclude", "lost", "--json") == 0
    notices = json.loads(capsys.readouterr().out)["notices"]
    for word in ("gone", "lost"):
        assert any(f"'{word}'" in notice for notice in notices)
