"""Filters and lists of what is in stock, as Python, the command line and the service take them."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import duckdb
import pytest

import twotower
from twotower.cli.main import main
from twotower.core.errors import InputError
from twotower.data.dataset import Dataset
from twotower.models.base import ClosedForm
from twotower.models.encode import encode_known_items
from twotower.models.registry import build_model
from twotower.serving.contents import Contents, write_bundle
from twotower.serving.everyone import write_recommendations
from twotower.serving.pipeline import Pipeline
from twotower.serving.retriever import Answer, Retriever

Capture = pytest.CaptureFixture[str]
LATE = "year >= 1975 and not title = 'Fargo'"  # i5, i6, i8, i9; Fargo is i7's title


@pytest.fixture
def retriever(bundle_folder: Path) -> Retriever:
    return twotower.load(bundle_folder)


def call(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert isinstance(stop.value.code, int)
    return stop.value.code


def ids(answers: list[Answer]) -> list[str]:
    return [answer.id for answer in answers]


def late(answers: list[Answer]) -> list[str]:
    return [a.id for a in answers if a.columns["year"] >= 1975 and a.columns["title"] != "Fargo"]


def test_a_filter_leaves_the_best_of_those_that_pass(retriever: Retriever) -> None:
    whole = retriever.recommend("u4", k=8, include_seen=True)
    assert 0 < len(late(whole)) < 8
    assert ids(retriever.recommend("u4", k=8, include_seen=True, filter=LATE)) == late(whole)
    assert ids(retriever.recommend("u4", k=2, include_seen=True, filter=LATE)) == late(whole)[:2]
    without = retriever.recommend("u4", k=8, filter=LATE, exclude=["i5"])
    assert ids(without) == [id for id in late(retriever.recommend("u4", k=8)) if id != "i5"]
    assert [ids(part) for part in retriever.recommend_many(["u4", "u3"], k=8, filter=LATE)] == [
        ids(retriever.recommend(user, k=8, filter=LATE)) for user in ("u4", "u3")
    ]


def test_what_is_in_stock_alone_comes_back_and_unknown_ids_are_said(
    retriever: Retriever, caplog: pytest.LogCaptureFixture
) -> None:
    found = retriever.recommend("u4", k=8, include_seen=True, only=["i6", "i2", "gone", "i6"])
    assert sorted(ids(found)) == ["i2", "i6"]
    assert "1 of 3 items that may come back are not in the catalogue, such as 'gone'" in caplog.text
    assert ids(retriever.recommend("u4", k=8, include_seen=True, only=["i6", "i2"], filter=LATE)) == ["i6"]


def test_nothing_that_passes_is_an_empty_answer_and_a_warning(
    retriever: Retriever, caplog: pytest.LogCaptureFixture
) -> None:
    assert retriever.recommend("u4", k=3, filter="year > 3000") == []
    assert retriever.similar("i4", k=3, filter="year > 3000") == []
    assert retriever.recommend("u4", k=3, only=[]) == []
    assert "no item passes the filter" in caplog.text


def test_neighbours_are_filtered(retriever: Retriever, tmp_path: Path) -> None:
    whole = retriever.similar("i4", k=7)
    assert ids(retriever.similar("i4", k=7, filter=LATE)) == late(whole)
    path = tmp_path / "items.csv"
    path.write_text("id,brand\ni4,brand2\n", encoding="utf-8")
    assert ids(retriever.similar_table(path, k=7, filter=LATE)[0].answers) == late(whole)
    with pytest.raises(InputError, match="a filter chooses among the catalogue"):
        retriever.similar_table(path, among="file", filter=LATE)


def test_neighbours_of_a_model_that_sums_are_filtered(titled_dataset: Dataset, tmp_path: Path) -> None:
    model = build_model("item_cosine", titled_dataset.schema, {})
    assert isinstance(model, ClosedForm)
    model.fit_log(titled_dataset.log)
    contents = Contents(
        model=model,
        model_name="item_cosine",
        model_parameters={},
        dataset=titled_dataset,
        items=encode_known_items(model, titled_dataset),
        histories=titled_dataset.log,
    )
    write_bundle(tmp_path / "sums", contents)
    retriever = twotower.load(tmp_path / "sums")
    whole = retriever.similar("i3", k=7)
    assert 0 < len(late(whole)) < len(whole)
    assert ids(retriever.similar("i3", k=7, filter=LATE)) == late(whole)


def test_a_pipeline_filters_in_its_first_stage(bundle_folder: Path) -> None:
    pair = Pipeline(twotower.load(bundle_folder), twotower.load(bundle_folder), candidates=8, weight=1.0)
    found = pair.recommend("u4", k=4, include_seen=True, filter=LATE)
    assert sorted(ids(found)) == ["i5", "i6", "i8", "i9"]
    assert pair.recommend("u4", k=4, filter="year > 3000") == []


def test_the_same_filter_is_looked_up_once(retriever: Retriever, monkeypatch: pytest.MonkeyPatch) -> None:
    first = retriever.recommend("u4", filter=LATE)
    monkeypatch.setattr("twotower.serving.filters.allowed.passing", None)
    assert retriever.recommend("u4", filter=f"  {LATE} ") == first


def test_the_command_line_filters(bundle_folder: Path, retriever: Retriever, tmp_path: Path, capsys: Capture) -> None:
    words = ["recommend", bundle_folder, "--user", "u4", "--include-seen", "-k", 8, "--json"]
    assert call(*words, "--filter", LATE) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["query"]["filter"] == LATE
    expected = ids(retriever.recommend("u4", k=8, include_seen=True, filter=LATE))
    assert [item["id"] for item in told["items"]] == expected
    stock = tmp_path / "stock.txt"
    stock.write_text("i6\ni2\n", encoding="utf-8")
    assert call(*words, "--only", stock) == 0
    assert sorted(item["id"] for item in json.loads(capsys.readouterr().out)["items"]) == ["i2", "i6"]
    assert call("similar", bundle_folder, "--item", "i4", "--filter", LATE, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [item["id"] for item in told["items"]] == ids(retriever.similar("i4", k=7, filter=LATE))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--filter", "yeer = 3"], "filter, character 1: items have no column 'yeer'; did you mean 'year'?"),
        (["--filter", "year = "], "is wanted here, but the filter ends"),
        (["--only", "no-such-file.txt"], "no-such-file.txt: no such file"),
    ],
)
def test_a_wrong_filter_is_one_line(words: list[str], said: str, bundle_folder: Path, capsys: Capture) -> None:
    for command in (["recommend", bundle_folder, "--user", "u4"], ["similar", bundle_folder, "--item", "i4"]):
        assert call(*command, *words) == 2
        out, errors = capsys.readouterr()
        assert (out, len(errors.strip().splitlines())) == ("", 1)
        assert said in errors


def test_everyone_gets_what_passes(bundle_folder: Path, retriever: Retriever, tmp_path: Path, capsys: Capture) -> None:
    to, stock = tmp_path / "lists.parquet", tmp_path / "stock.csv"
    stock.write_text("id\ni6\ni5\ni2\n", encoding="utf-8")
    assert call("recommend", bundle_folder, "--all", "--to", to, "-k", 4, "--filter", LATE, "--only", stock) == 0
    rows = duckdb.sql(f"SELECT \"user\", item FROM '{to}'").fetchall()
    for user in ("u2", "u3", "u4", "u5", "u6"):
        alone = retriever.recommend(user, k=4, filter=LATE, only=["i6", "i5", "i2"])
        assert [item for name, item in rows if name == user] == ids(alone)


def test_a_stopped_run_with_another_filter_begins_anew(
    retriever: Retriever, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    to = tmp_path / "lists.parquet"

    class StopError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise StopError

    with pytest.raises(StopError):
        write_recommendations(retriever, to, k=4, part=2, filter=LATE, on_progress=stop)
    with caplog.at_level(logging.WARNING):
        assert write_recommendations(retriever, to, k=4, part=2, filter="year < 1975").resumed == 0
    assert "parts of a stopped run with another bundle or question" in caplog.text


def test_the_service_filters_and_says_where_a_filter_is_wrong(bundle_folder: Path, retriever: Retriever) -> None:
    testing = pytest.importorskip("fastapi.testclient")
    from twotower.serving.http.app import create_app
    from twotower.serving.http.limits import Limits
    from twotower.serving.http.swap import Loader, Slot

    loader = Loader()
    client = testing.TestClient(create_app(Slot(loader.load(bundle_folder, None), loader), limits=Limits(only=3)))

    def asked(path: str, **body: Any) -> Any:
        return client.post(path, json=body)

    answer = asked("/v1/recommend", user="u4", k=8, include_seen=True, filter=LATE)
    assert answer.status_code == 200
    expected = ids(retriever.recommend("u4", k=8, include_seen=True, filter=LATE))
    assert [item["id"] for item in answer.json()["items"]] == expected
    assert asked("/v1/recommend", user="u4", only=["i2", "i9"], include_seen=True).json()["items"][0]["id"] in (
        "i2",
        "i9",
    )
    near = asked("/v1/similar", item="i4", k=7, filter=LATE).json()["items"]
    assert [item["id"] for item in near] == ids(retriever.similar("i4", k=7, filter=LATE))
    none = asked("/v1/recommend", user="u4", filter="year > 3000").json()
    assert none["items"] == []
    assert "no item passes the filter" in none["notices"][0]
    for path, who in (("/v1/recommend", {"user": "u4"}), ("/v1/similar", {"item": "i4"})):
        wrong = asked(path, **who, filter="year >= 1975 and titel = 'x'")
        assert wrong.status_code == 400
        assert "filter, character 18: items have no column 'titel'; did you mean 'title'?" in wrong.json()["error"]
        assert asked(path, **who, filter=3).status_code == 400
        assert asked(path, **who, only=["1", "2", "3", "4"]).status_code == 400
