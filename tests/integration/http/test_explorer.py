"""The explorer's page and the routes that it asks."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import twotower
from twotower.data.dataset import Dataset
from twotower.models.base import Model

pytest.importorskip("fastapi")

API = "/explorer/api/"
TOKEN = "a-token-for-tests-only"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
Ask = Callable[..., Any]
Build = Callable[..., Any]
Write = Callable[..., Model]

ROUTES = {
    "search": {"text": "alien"},
    "seen": {"user": "u2"},
    "recommend": {"history": ["i2"]},
    "filter": {"filter": "year >= 1975"},
    "why": {"history": ["i2"], "item": "i3"},
    "map": {},
    "place": {"history": ["i2"]},
}


@pytest.fixture
def beside_folder(write: Write, titled_dataset: Dataset, tmp_path: Path) -> Path:
    """A bundle of a model whose items are no vectors."""
    write(tmp_path / "beside", titled_dataset, "item_lists")
    return tmp_path / "beside"


@pytest.fixture
def app(build: Build, bundle_folder: Path, beside_folder: Path) -> Any:
    return build(bundle_folder, beside=beside_folder)


def ids(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [item["id"] for item in answer.json()["items"]]


def test_a_service_has_no_explorer_unless_it_was_asked_for_one(build: Build, ask: Ask, bundle_folder: Path) -> None:
    plain = build(bundle_folder)
    assert ask(plain, "/explorer/").status_code == 404
    assert ask(plain, API + "about").status_code == 404
    assert ask(build(bundle_folder, explorer=True), "/explorer/").status_code == 200


def test_every_file_of_the_page_allows_its_own_scripts_alone(app: Any, ask: Ask) -> None:
    from twotower.serving.http.explorer.files import page_files

    assert {"/explorer/", "/explorer/page.js", "/explorer/preact-htm.js"} <= page_files().keys()
    for path in page_files():
        answer = ask(app, path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy, path
        assert "script-src 'self';" in policy, path
        assert "unsafe" not in policy, path
        assert answer.headers["x-content-type-options"] == "nosniff", path


def test_the_page_holds_no_script_or_style_of_its_own_and_names_no_other_host(app: Any, ask: Ask) -> None:
    from twotower.serving.http.explorer.files import page_files

    page = ask(app, "/explorer/").text
    assert re.findall(r"<script[^>]*>(?=[^<])", page) == []
    assert not re.search(r"<style|\son\w+=|\sstyle=", page)
    named = re.findall(r'(?:src|href)="([^"]+)"', page)
    named += re.findall(r'from "\./([^"]+)"', "".join(ask(app, path).text for path in page_files()))
    assert named
    assert {f"/explorer/{name}" for name in named} <= page_files().keys()


def test_the_address_without_a_slash_leads_to_the_page_below_any_prefix(app: Any, ask: Ask) -> None:
    answer = ask(app, "/explorer")
    assert (answer.status_code, answer.headers["location"]) == (308, "explorer/")


@pytest.mark.parametrize("name", ["../app.py", "..%2fapp.py", "vendor/preact-htm.js", "page.html", "%2e%2e/files.py"])
def test_no_other_path_leads_to_a_file(name: str, app: Any, ask: Ask) -> None:
    assert ask(app, f"/explorer/{name}").status_code == 404


def test_what_is_vendored_is_as_it_was_published() -> None:
    from importlib.resources import files

    vendor = files("twotower.serving.http.explorer") / "page" / "vendor"
    noted = (vendor / "README.md").read_text(encoding="utf-8")
    for name in ("preact-htm.js", "LICENSE-htm.txt", "LICENSE-preact.txt"):
        assert hashlib.sha256((vendor / name).read_bytes()).hexdigest() in noted, name


def test_with_a_token_the_page_opens_and_every_question_wants_it(build: Build, ask: Ask, bundle_folder: Path) -> None:
    app = build(bundle_folder, explorer=True, token=TOKEN)
    assert ask(app, "/explorer/").status_code == 200
    assert ask(app, "/explorer/page.js").status_code == 200
    assert ask(app, API + "about").status_code == 401
    assert ask(app, API + "about", headers=HEADERS).status_code == 200
    for name, body in ROUTES.items():
        assert ask(app, API + name, body).status_code == 401, name
        assert ask(app, API + name, body, headers=HEADERS).status_code == 200, name


def test_about_tells_of_both_bundles(app: Any, ask: Ask, bundle_folder: Path) -> None:
    bundles = ask(app, API + "about").json()["bundles"]
    first, second = bundles["first"], bundles["second"]
    assert (first["model"], first["items"], first["map"]) == ("two_tower", 8, True)
    assert (second["model"], second["folder"], second["map"]) == ("item_lists", "beside", False)
    assert first["metrics"] == [{"name": "recall@10", "value": 0.25, "interval": None}]
    assert first["bundle"] == twotower.load(bundle_folder).bundle.manifest["digest"][:12]


def test_about_names_the_columns_to_filter_by_with_the_values_of_those_that_have_few(
    build: Build, ask: Ask, write: Write, titled_dataset: Dataset, tmp_path: Path
) -> None:
    import duckdb

    path = tmp_path / "prepared" / "vocabulary" / "items.parquet"
    duckdb.sql(f"COPY (FROM '{path}') TO '{tmp_path / 'items.csv'}'")
    duckdb.sql(
        "COPY (SELECT *, CASE row % 3 WHEN 0 THEN 'Drama' WHEN 1 THEN 'it''s' END AS genre, row > 4 AS colour, "
        "['a', 'b'][: 1 + row % 2] AS tags, DATE '2020-01-01' AS seen, "
        "CASE WHEN row = 2 THEN 'nan'::DOUBLE ELSE row END AS length, repeat('x', 70) AS long "
        f"FROM read_csv('{tmp_path / 'items.csv'}')) TO '{path}'"
    )
    write(tmp_path / "other", titled_dataset)
    app = build(tmp_path / "other", explorer=True)
    columns = {one.pop("name"): one for one in ask(app, API + "about").json()["bundles"]["first"]["columns"]}
    assert columns == {
        "id": {"kind": "text", "list": False},
        "year": {"kind": "number", "list": False, "range": [1972, 1979]},
        "title": {
            "kind": "text",
            "list": False,
            "values": sorted(["Alien", "Brazil", "Casablanca", "Duel", "Eraserhead", "Fargo", "Gaslight", "Heat"]),
        },
        "genre": {"kind": "text", "list": False, "values": ["Drama", "it's"]},
        "colour": {"kind": "flag", "list": False, "values": [True, False]},
        "tags": {"kind": "text", "list": True, "values": ["a", "b"]},
        "seen": {"kind": "time", "list": False},
        "length": {"kind": "number", "list": False, "range": [3, 9]},
        "long": {"kind": "text", "list": False, "values": None},
    }


def test_a_filter_counts_what_passes_and_holds_for_a_list_and_names_the_place_that_is_wrong(app: Any, ask: Ask) -> None:
    passing = ask(app, API + "filter", {"filter": "year >= 1976"}).json()
    assert (passing["passing"], passing["items"], passing["notices"]) == (4, 8, [])
    for bundle in ("first", "second"):
        answer = ask(app, API + "recommend", {"history": ["i2"], "bundle": bundle, "filter": "year >= 1976"})
        assert ids(answer)
        assert set(ids(answer)) <= {"i6", "i7", "i8", "i9"}
    nothing = ask(app, API + "filter", {"filter": "year > 3000"}).json()
    assert nothing["passing"] == 0
    assert nothing["notices"] == ["no item passes the filter, so that none comes back"]
    for body in ({"filter": "yeer = 3"}, {"history": ["i2"], "filter": "yeer = 3"}):
        refused = ask(app, API + ("recommend" if "history" in body else "filter"), body)
        assert refused.status_code == 400
        assert refused.json()["error"].startswith("filter, character 1: items have no column 'yeer'")


def test_search_finds_by_title_id_and_words_and_begins_with_the_items_of_the_most_events(
    app: Any, ask: Ask, titled_dataset: Dataset
) -> None:
    counts = titled_dataset.log.items.bincount(minlength=10)
    assert ids(ask(app, API + "search", {"k": 1})) == [f"i{counts.argmax()}"]
    assert ids(ask(app, API + "search", {"text": "CASA"})) == ["i4"]
    assert ids(ask(app, API + "search", {"text": "i9"})) == ["i9"]
    assert ids(ask(app, API + "search", {"text": "light gas"})) == ["i8"]
    assert ids(ask(app, API + "search", {"text": "zzz"})) == []
    assert ask(app, API + "search", {"text": "duel"}).json()["items"][0] == {
        "id": "i5",
        "title": "Duel",
        "more": "1975",
    }


def test_titles_that_begin_so_come_first_and_accents_do_not_matter(
    build: Build, ask: Ask, write: Write, titled_dataset: Dataset, tmp_path: Path
) -> None:
    import duckdb

    path = tmp_path / "prepared" / "vocabulary" / "items.parquet"
    names = {2: "Das Boot", 3: "Bootmen", 4: "BOOTY CALL", 5: "Amélie", 6: "Heat", 7: "Heat 2", 8: None, 9: "Rebooted"}
    connection = duckdb.connect()
    connection.execute("CREATE TABLE items (row BIGINT, id VARCHAR, title VARCHAR)")
    connection.executemany(
        "INSERT INTO items VALUES (?, ?, ?)", [(row, f"i{row}", name) for row, name in names.items()]
    )
    connection.execute(f"COPY items TO '{path}'")
    write(tmp_path / "named", titled_dataset)
    app = build(tmp_path / "named", explorer=True)
    counts = titled_dataset.log.items.bincount(minlength=10)
    found = ids(ask(app, API + "search", {"text": "boot"}))
    assert found == [
        *sorted(["i3", "i4"], key=lambda id: -counts[int(id[1:])]),
        *sorted(["i2", "i9"], key=lambda id: -counts[int(id[1:])]),
    ]
    assert ids(ask(app, API + "search", {"text": "amelie"})) == ids(ask(app, API + "search", {"text": "AMÉ"})) == ["i5"]
    assert ask(app, API + "search", {"text": "i8"}).json()["items"] == [{"id": "i8", "title": "i8", "more": ""}]


def test_a_list_is_that_of_the_bundle_asked(app: Any, ask: Ask, bundle_folder: Path, beside_folder: Path) -> None:
    for which, folder in (("first", bundle_folder), ("second", beside_folder)):
        want = twotower.load(folder).recommend(history=["i2", "i5"], k=3)
        got = ask(app, API + "recommend", {"history": ["i2", "i5"], "k": 3, "bundle": which})
        assert ids(got) == [item.id for item in want]
        assert [item["score"] for item in got.json()["items"]] == pytest.approx([item.score for item in want])
        assert got.json()["answered_by"] == "history"
        assert got.json()["ms"] > 0


def test_why_gives_the_shares_of_the_bundle_asked(app: Any, ask: Ask, beside_folder: Path) -> None:
    top = ids(ask(app, API + "recommend", {"history": ["i2", "i5"], "bundle": "second"}))[0]
    told = ask(app, API + "why", {"history": ["i2", "i5"], "item": top, "bundle": "second"}).json()
    (want,) = twotower.load(beside_folder).explain(items=[top], history=["i2", "i5"])
    assert told["exact"]
    assert told["model"] == "item_lists"
    assert {cause["id"]: cause["share"] for cause in told["causes"]} == pytest.approx(
        {cause.id: cause.share for cause in want.causes}
    )
    assert sum(cause["share"] for cause in told["causes"]) == pytest.approx(told["score"])


def test_behind_a_pre_ranker_the_list_is_explained_by_what_orders_it(
    build: Build, ask: Ask, bundle_folder: Path, beside_folder: Path
) -> None:
    app = build(bundle_folder, beside_folder, explorer=True)
    told = ask(app, API + "why", {"history": ["i2"], "item": "i3"}).json()
    assert told["model"] == "item_lists"
    assert ask(app, API + "about").json()["bundles"]["first"]["then"] == "item_lists"


def test_the_map_places_items_where_a_further_question_finds_them(app: Any, ask: Ask) -> None:
    found = ask(app, API + "map", {}).json()
    points = {item["id"]: point for item, point in zip(found["items"], found["points"], strict=True)}
    assert len(points) == 8
    placed = ask(app, API + "place", {"user": "u3", "items": ["i2", "i9", "nothing"]}).json()
    assert placed["items"] == {"i2": points["i2"], "i9": points["i9"]}
    assert len(placed["user"]) == 1
    assert ask(app, API + "place", {"user": "u3"}).json()["items"] == {}


def test_a_large_catalogue_is_drawn_as_a_sample_and_every_item_can_be_placed(
    build: Build, ask: Ask, bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from twotower.serving.http.explorer import space

    monkeypatch.setattr(space, "MOST_POINTS", 3)
    app = build(bundle_folder, explorer=True)
    found = ask(app, API + "map", {}).json()
    assert len(found["points"]) == 3
    assert "3 of 8 items, drawn at random" in found["note"]
    every = [f"i{row}" for row in range(2, 10)]
    placed = ask(app, API + "place", {"user": "u3", "items": every}).json()["items"]
    assert list(placed) == every
    assert [placed[item["id"]] for item in found["items"]] == found["points"]


def test_a_model_without_item_vectors_says_that_it_has_no_map(app: Any, ask: Ask) -> None:
    found = ask(app, API + "map", {"bundle": "second"}).json()
    assert found["points"] == []
    assert "no item vectors" in found["note"]
    assert ask(app, API + "place", {"bundle": "second", "user": "u3", "items": ["i2"]}).json()["items"] == {}


def test_what_a_user_has_seen_comes_latest_first(app: Any, ask: Ask, bundle_folder: Path) -> None:
    seen = [record.id for record in twotower.load(bundle_folder).seen("u2")]
    got = ask(app, API + "seen", {"user": "u2", "k": 2})
    assert ids(got) == seen[:2]
    assert got.json()["seen"] == len(seen)


def test_after_a_swap_the_page_is_of_the_new_bundle(
    build: Build, ask: Ask, write: Write, titled_dataset: Dataset, bundle_folder: Path
) -> None:
    write(bundle_folder.parent / "next", titled_dataset, "item_lists")
    app = build(bundle_folder, explorer=True, token=TOKEN)
    assert ask(app, API + "map", {}, headers=HEADERS).json()["points"]
    assert ask(app, "/admin/swap", {"bundle": "next"}, headers=HEADERS).status_code == 200
    assert ask(app, API + "about", headers=HEADERS).json()["bundles"]["first"]["folder"] == "next"
    assert not ask(app, API + "map", {}, headers=HEADERS).json()["points"]


@pytest.mark.parametrize(
    ("name", "body", "status", "says"),
    [
        ("recommend", {}, 400, "either a user or a history"),
        ("recommend", {"history": ["i2"], "k": 0}, 400, "at least 1"),
        ("recommend", {"history": ["i2"], "k": 1001}, 400, "at most 1000"),
        ("recommend", {"history": ["i2"] * 2001}, 400, "at most 2000"),
        ("recommend", {"user": "u99"}, 404, "unknown user"),
        ("recommend", {"history": ["i2"], "bundle": "third"}, 400, "first"),
        ("why", {"history": ["i2"], "item": "i99"}, 404, "unknown item"),
        ("why", {"history": ["i2"]}, 400, "item"),
        ("search", {"text": "a" * 300}, 400, "at most 256"),
        ("search", {"k": -1}, 400, "at least 1"),
        ("seen", {"user": "nobody"}, 404, "unknown user"),
        ("place", {"history": ["i2"], "items": ["i2"] * 2001}, 400, "at most 2000"),
        ("map", {"bundle": 7}, 400, "bundle"),
    ],
)
def test_a_question_beyond_the_limits_is_refused(
    name: str, body: dict[str, Any], status: int, says: str, app: Any, ask: Ask
) -> None:
    answer = ask(app, API + name, body)
    assert (answer.status_code, says in answer.json()["error"]) == (status, True), answer.text


def test_one_bundle_alone_has_no_second(build: Build, ask: Ask, bundle_folder: Path) -> None:
    answer = ask(build(bundle_folder, explorer=True), API + "recommend", {"history": ["i2"], "bundle": "second"})
    assert answer.status_code == 400
    assert "--beside" in answer.json()["error"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ROUTES)
def test_no_json_whatever_is_a_fault_of_ours(name: str, app: Any, ask: Ask) -> None:
    hypothesis = pytest.importorskip("hypothesis")
    st = hypothesis.strategies
    value = st.none() | st.integers() | st.text(max_size=6) | st.sampled_from(["u2", "i3", "first", "second"])
    keys = st.sampled_from(["bundle", "user", "history", "items", "item", "k", "text", "other"])
    bodies = st.dictionaries(keys, value | st.lists(value, max_size=3), max_size=5)

    @hypothesis.settings(max_examples=60, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(bodies)
    def holds(body: dict[str, Any]) -> None:
        answer = ask(app, API + name, json.dumps({**ROUTES[name], **body}).encode())
        assert answer.status_code < 500, answer.text
        if answer.status_code != 200:
            assert answer.json()["error"]

    holds()
