"""Somebody new, of whom nothing but features is known: asked for in Python, over HTTP and on the command line."""

from __future__ import annotations

import json
import logging

import pytest
from starlette.testclient import TestClient

import twotower
from twotower.cli.main import main
from twotower.core.errors import InputError
from twotower.serving.asking import answered_by
from twotower.serving.http.app import create_app
from twotower.serving.http.swap import Loader, Slot

CITIES = ("Bergen", "Turin")


def frames(*, with_users: bool = True):
    """Twenty users of two cities, each of which has ten items that nobody of the other takes."""
    rows = [(f"u{u}", f"{CITIES[u % 2]}-{(u + step) % 10}", step) for u in range(20) for step in range(6)]
    events = dict(zip(("user", "item", "time"), map(list, zip(*rows, strict=True)), strict=True))
    users = {"user": [f"u{u}" for u in range(20)], "city": [CITIES[u % 2] for u in range(20)], "age": [20, 60] * 10}
    return {"events": events, "users": users if with_users else None}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    data = twotower.Dataset.from_frames(**frames(), features={"age": "numeric", "city": "categorical"})
    twotower.train("cluster_popularity", data, to=folder / "cluster", clusters=2, smoothing=1.0)
    twotower.train("popularity", data, to=folder / "popularity")
    twotower.train("popularity", twotower.Dataset.from_frames(**frames(with_users=False)), to=folder / "bare")
    return folder


@pytest.mark.parametrize("city", CITIES)
def test_somebody_new_gets_what_is_liked_by_those_who_are_alike(bundles, city):
    retriever = twotower.load(bundles / "cluster")
    for asked in ({}, {"history": []}, {"user": "nobody"}):
        found = retriever.recommend(features={"city": city, "age": None}, k=5, **asked)
        assert {answer.id.partition("-")[0] for answer in found} == {city}
    assert answered_by(retriever.bundle, "nobody", [], {"city": city}) == "features"
    assert retriever.rank(candidates=["Turin-1", "Bergen-1"], features={"city": city})[0].id == f"{city}-1"


def test_nobody_known_is_popularity_not_some_cluster(bundles):
    retriever = twotower.load(bundles / "cluster")
    lists = [retriever.recommend(history=[f"{city}-0"], k=20, include_seen=True) for city in CITIES]
    scores = [answer.score for answer in lists[0]]
    assert max(scores) < 2.0 * min(scores), "a cluster's own items would stand far above those of the other"
    assert [answer.id for answer in lists[0]] == [answer.id for answer in lists[1]]


def test_users_of_two_kinds_make_two_clusters_however_many_are_asked_for():
    """A centre that is there twice is a tie, which rounding decides: here so, in an exported graph otherwise."""
    data = twotower.Dataset.from_frames(**frames(), features={"age": "numeric", "city": "categorical"})
    model = twotower.train("cluster_popularity", data, clusters=15).model
    assert int((model.centres < 1e3).any(1).sum()) == 2


def test_features_that_change_nothing_are_told(bundles, caplog):
    with caplog.at_level(logging.WARNING, "twotower"):
        assert twotower.load(bundles / "popularity").recommend(features={"city": "Turin", "age": 3}, k=1)
    assert "popularity makes the same of these features as of none" in caplog.text


@pytest.mark.parametrize(
    ("name", "asked", "said"),
    [
        ("bare", {"features": {"city": "Turin"}}, "the data has no user features, so that they answer nothing"),
        ("cluster", {"features": {}}, "the history is empty; name at least one item, or give features"),
        ("cluster", {"features": {"town": "Turin"}}, "unknown user feature 'town'"),
        ("cluster", {"features": {"age": "old"}}, "user feature 'age': 'old' is no number"),
        ("cluster", {"user": "u1", "features": {"city": "Turin"}}, "a known user has stored features"),
        ("cluster", {}, "or the features of somebody new"),
    ],
)
def test_what_answers_nobody_is_refused(bundles, name, asked, said):
    with pytest.raises(InputError, match=said):
        twotower.load(bundles / name).recommend(**asked)


def test_the_service_answers_features_alone(bundles):
    loader = Loader()
    with TestClient(create_app(Slot(loader.load(bundles / "cluster", None), loader))) as client:
        answer = client.post("/v1/recommend", json={"features": {"city": "Turin"}, "k": 3}).json()
    assert answer["answered_by"] == "features"
    assert all(item["id"].startswith("Turin") for item in answer["items"])
    assert answer["notices"] == ["user features that were not given are missing: age"]


def test_the_command_line_takes_columns(bundles, capsys):
    with pytest.raises(SystemExit) as done:
        main(
            [
                "recommend",
                str(bundles / "cluster"),
                "--feature",
                "city=Turin",
                "--feature",
                "age=60",
                "-k",
                "2",
                "--json",
            ]
        )
    answer = json.loads(capsys.readouterr().out)
    assert done.value.code == 0
    assert answer["query"] == {"features": {"city": "Turin", "age": "60"}, "k": 2}
    assert all(item["id"].startswith("Turin") for item in answer["items"])
    with pytest.raises(SystemExit) as done:
        main(["recommend", str(bundles / "cluster"), "--feature", "city"])
    assert done.value.code == 2
    assert "write column=value, such as age=30" in capsys.readouterr().err
