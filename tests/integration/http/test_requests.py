"""What the service answers to good and bad requests, held against the retriever that it asks."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import twotower
from twotower.core.errors import UnavailableError
from twotower.data.dataset import Dataset
from twotower.models.base import Model
from twotower.serving.finder import Finder

TOKEN = "a-token-for-tests-only"
Build = Callable[..., Any]


@pytest.fixture
def app(build: Build, bundle_folder: Path) -> Any:
    return build(bundle_folder)


def test_a_user_and_a_history_get_what_the_retriever_finds(app: Any, ask: Build, bundle_folder: Path) -> None:
    retriever = twotower.load(bundle_folder)
    for asker in ({"user": "u3"}, {"history": ["i8", "i2"]}):
        answer = ask(app, "/v1/recommend", {**asker, "k": 4, "exclude": ["i9"]})
        found = retriever.recommend(**asker, k=4, exclude=["i9"])
        assert answer.status_code == 200
        assert answer.json()["answered_by"] == next(iter(asker))
        assert [item["id"] for item in answer.json()["items"]] == [item.id for item in found]
        assert [item["score"] for item in answer.json()["items"]] == pytest.approx([item.score for item in found])
        assert answer.json()["items"][0]["title"] == found[0].columns["title"]
        assert answer.json()["bundle"] == retriever.bundle.manifest["digest"][:12]


def test_seen_items_come_back_only_when_asked_for(app: Any, ask: Build) -> None:
    assert len(ask(app, "/v1/recommend", {"user": "u2", "k": 8}).json()["items"]) == 3
    assert len(ask(app, "/v1/recommend", {"user": "u2", "k": 8, "include_seen": True}).json()["items"]) == 8


def test_a_bundle_that_was_judged_with_what_was_seen_answers_so_unless_told_otherwise(
    build: Build, ask: Build, write: Callable[..., Model], titled_dataset: Dataset, tmp_path: Path
) -> None:
    write(tmp_path / "kept", titled_dataset, run_toml="[evaluation]\nmask_seen = false\n")
    app = build(tmp_path / "kept")
    asked = {"user": "u2", "k": 8}
    for choice, found in ((None, 8), (False, 3), (True, 8)):
        assert len(ask(app, "/v1/recommend", {**asked, "include_seen": choice}).json()["items"]) == found, choice
    assert len(ask(app, "/v1/recommend", asked).json()["items"]) == 8


def test_rank_and_similar_and_items_answer_as_in_python(app: Any, ask: Build, bundle_folder: Path) -> None:
    retriever = twotower.load(bundle_folder)
    ranked = ask(app, "/v1/rank", {"user": "u3", "candidates": ["i5", "i2", "i9"], "k": 2}).json()
    assert [item["id"] for item in ranked["items"]] == [a.id for a in retriever.rank("u3", ["i5", "i2", "i9"], k=2)]
    near = ask(app, "/v1/similar", {"item": "i4", "k": 3}).json()
    assert [item["id"] for item in near["items"]] == [a.id for a in retriever.similar("i4", k=3)]
    assert ask(app, "/v1/items/i4").json() == {"id": "i4", "year": 1974, "title": "Casablanca"}


def test_two_stages_answer_as_the_pipeline(
    build: Build, ask: Build, write: Callable[..., Model], titled_dataset: Dataset, tmp_path: Path
) -> None:
    from twotower.serving.pipeline import load_pipeline

    write(tmp_path / "first", titled_dataset)
    write(tmp_path / "second", titled_dataset, "sasrec", parameters={"dim": 4, "heads": 1})
    found = load_pipeline(tmp_path / "first", tmp_path / "second").recommend("u4", k=3)
    answer = ask(build(tmp_path / "first", tmp_path / "second"), "/v1/recommend", {"user": "u4", "k": 3}).json()
    assert [item["id"] for item in answer["items"]] == [item.id for item in found]


def test_features_of_an_unknown_user_are_read(app: Any, ask: Build) -> None:
    def score(features: dict[str, Any] | None) -> float:
        body = {"history": ["i8"], "k": 1} | ({} if features is None else {"features": features})
        found: float = ask(app, "/v1/recommend", body).json()["items"][0]["score"]
        return found

    assert score({"age": 30}) != pytest.approx(score({"age": 75}))
    assert score({"age": None}) != pytest.approx(score({"age": 75}))
    wrong = ask(app, "/v1/recommend", {"history": ["i8"], "features": {"agee": 3}})
    assert (wrong.status_code, "did you mean 'age'?" in wrong.json()["error"]) == (400, True)
    both = ask(app, "/v1/recommend", {"user": "u2", "features": {"age": 3}})
    assert (both.status_code, "stored features" in both.json()["error"]) == (400, True)


def test_the_service_says_which_path_answered(build: Build, ask: Build, bundle_folder: Path) -> None:
    app = build(bundle_folder)
    retriever = twotower.load(bundle_folder)
    for path, more in (("/v1/recommend", {"k": 3}), ("/v1/rank", {"candidates": ["i4", "i6"]})):
        for user, by in (("u4", "user+history"), ("newcomer", "history")):
            answer = ask(app, path, {"user": user, "history": ["i5", "gone"], **more}).json()
            assert answer["answered_by"] == by
            assert any("'gone'" in text for text in answer["notices"])
    answer = ask(app, "/v1/recommend", {"user": "u4", "history": ["i5"], "k": 3}).json()
    assert [item["id"] for item in answer["items"]] == [a.id for a in retriever.recommend("u4", history=["i5"], k=3)]


def test_ids_that_went_are_left_aside_with_a_notice_of_this_request_alone(app: Any, ask: Build) -> None:
    answer = ask(app, "/v1/recommend", {"history": ["i8", "gone"], "k": 2})
    assert answer.status_code == 200
    assert "'gone'" in answer.json()["notices"][0]
    assert ask(app, "/v1/recommend", {"history": ["i8"], "k": 2}).json()["notices"] == []


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("/v1/recommend", {"user": "u33"}, 404, "did you mean 'u3'?"),
        ("/v1/recommend", {"history": ["nothing"]}, 404, "unknown item 'nothing'"),
        ("/v1/similar", {"item": "i44"}, 404, "did you mean 'i4'?"),
        ("/v1/rank", {"user": "u2", "candidates": ["i2", "i2"]}, 400, "more than once"),
        ("/v1/rank", {"user": "u2"}, 400, "lacks 'candidates'"),
        ("/v1/recommend", {}, 400, "give either a user or a history"),
        ("/v1/recommend", {"history": []}, 400, "the history is empty"),
        ("/v1/recommend", {"user": "u2", "k": 0}, 400, "k must be at least 1"),
        ("/v1/recommend", {"user": "u2", "k": -(10**30)}, 400, "k must be at least 1"),
        ("/v1/recommend", {"user": "u2", "k": 1001}, 400, "at most 1000"),
        ("/v1/recommend", {"user": "u2", "k": 2.5}, 400, "a whole number"),
        ("/v1/recommend", {"user": "u2", "kk": 2}, 400, "did you mean 'k'?"),
        ("/v1/recommend", {"user": "u" * 300}, 400, "at most 256"),
        ("/v1/recommend", {"history": ["i2"] * 2001}, 400, "at most 2000"),
        ("/v1/recommend", [1], 400, "a JSON object is wanted"),
        ("/v1/recommend", b'{"user": "u2", "k": NaN}', 400, "NaN"),
        ("/v1/recommend", b'{"user": "u2", "user": "u3"}', 400, "names 'user' more than once"),
        ("/v1/similar", b'{"item": "i2", "k": 1, "k": 2}', 400, "names 'k' more than once"),
        ("/v1/recommend", b'{"user": "u2", "k": 1e999}', 400, "too large a number"),
        ("/v1/recommend", b'{"user": ' + b"9" * 5000 + b"}", 400, "not JSON"),
        ("/v1/recommend", b'{"user": "\\ud800"}', 400, "surrogate"),
        ("/v1/recommend", b'{"user": "\xff"}', 400, "not UTF-8"),
        ("/v1/recommend", b'{"user": ', 400, "line 1"),
        ("/v1/recommend", b'{"features": ' + b"[" * 50_000, 400, "levels deep"),
        ("/v1/recommend", b'{"features": ' + b'{"a":' * 9 + b"1" + b"}" * 10, 400, "levels deep"),
        ("/v1/recommend", b" " * (1 << 20) + b"{}", 413, "larger than"),
        ("/v1/items/..%2F..%2Fmanifest.json", None, 404, "unknown item '../../manifest.json'"),
        ("/v1/items/i2%00", None, 404, "unknown item"),
        ("/v1/recommend", None, 405, "GET is not taken here"),
        ("/nowhere", None, 404, "no such route"),
    ],
)
def test_a_bad_request_is_told_what_to_do(path: str, body: Any, status: int, text: str, app: Any, ask: Build) -> None:
    answer = ask(app, path, body)
    assert answer.status_code == status, answer.text
    assert text in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


def test_brackets_within_a_text_are_not_depth(app: Any, ask: Build) -> None:
    assert "unknown user" in ask(app, "/v1/recommend", {"user": '["' + "[{" * 40}).json()["error"]


def test_a_body_that_is_not_said_to_be_json_is_refused(app: Any, ask: Build) -> None:
    answer = ask(app, "/v1/recommend", method="POST", content=b"{}", headers={"Content-Type": "text/plain"})
    assert answer.status_code == 415


def test_a_token_guards_all_but_the_health_of_the_service(build: Build, ask: Build, bundle_folder: Path) -> None:
    app = build(bundle_folder, token=TOKEN)
    for path, body in (
        ("/v1/recommend", {"user": "u2"}),
        ("/v1/items/i2", None),
        ("/metrics", None),
        ("/admin/swap", {}),
    ):
        for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
            refused = ask(app, path, body, headers=dict(header))
            assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert ask(app, path, body, headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert ask(app, "/healthz").json() == {"status": "alive"}
    assert ask(app, "/readyz").json()["model"] == "two_tower"


def test_what_comes_when_all_places_are_taken_is_told_to_come_again(
    build: Build, ask: Build, bundle_folder: Path
) -> None:
    from twotower.serving.http.limits import Limits

    app = build(bundle_folder, limits=Limits(concurrency=1))
    app.state.service.metrics.in_flight = 1
    refused = ask(app, "/v1/recommend", {"user": "u2"})
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    app.state.service.metrics.in_flight = 0
    assert ask(app, "/v1/recommend", {"user": "u2"}).status_code == 200
    assert app.state.service.metrics.in_flight == 0


def test_a_fault_of_ours_is_an_answer_and_a_line_in_the_log(
    app: Any, ask: Build, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(app.state.service.slot.served.retriever, "recommend", fails)
    answer = ask(app, "/v1/recommend", {"user": "u2"})
    assert answer.status_code == 500
    assert "planted" not in answer.text
    assert any(record.exc_info for record in caplog.records)


def test_the_access_log_is_one_json_object_a_request(app: Any, ask: Build, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="twotower.serving.http.access"):
        ask(app, "/v1/recommend", {"user": "u2"})
        ask(app, "/v1/items/a%0Ab")
    lines = [json.loads(r.getMessage()) for r in caplog.records if r.name.endswith(".access")]
    assert [(line["path"], line["status"]) for line in lines] == [("/v1/recommend", 200), ("/v1/items/a\nb", 404)]
    assert lines[0]["answered_by"] == "user"
    assert all("\n" not in r.getMessage() for r in caplog.records)


def test_metrics_count_by_route_and_never_by_what_a_client_made_up(app: Any, ask: Build) -> None:
    ask(app, "/v1/recommend", {"user": "u2"})
    ask(app, "/v1/items/i2")
    ask(app, "/v1/items/i3")
    ask(app, "/some/path/of/a/client")
    text = ask(app, "/metrics").text
    assert 'twotower_requests_total{route="/v1/recommend",status="200"} 1' in text
    assert 'twotower_requests_total{route="/v1/items/{id:path}",status="200"} 2' in text
    assert 'twotower_request_seconds_count{route="/v1/items/{id:path}"} 2' in text
    assert "of/a/client" not in text
    values = [float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line and not line.startswith("#")]
    assert min(values) >= 0.0


def test_openapi_describes_every_route(app: Any, ask: Build) -> None:
    described = ask(app, "/openapi.json").json()["paths"]
    assert {"/v1/recommend", "/v1/rank", "/v1/similar", "/v1/items/{id}", "/healthz", "/readyz"} <= described.keys()
    body = described["/v1/rank"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["required"] == ["candidates"]
    assert body["additionalProperties"] is False


def test_an_index_elsewhere_that_does_not_answer_is_503_and_no_fault_of_the_request(
    app: Any, ask: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    from twotower.core.errors import UnavailableError

    def silent(*_: object) -> None:
        raise UnavailableError("qdrant at http://there does not answer (refused)")

    monkeypatch.setattr("twotower.index.exact.ExactIndex.search", silent)
    answer = ask(app, "/v1/recommend", {"user": "u3"})
    assert answer.status_code == 503
    assert "does not answer" in answer.json()["error"]
    assert answer.headers["Retry-After"] == "1"


class Silent:
    """An index whose server does not answer."""

    def ping(self) -> None:
        raise UnavailableError("qdrant at http://here does not answer (refused); start it, or mend its address")


def test_a_service_whose_index_is_silent_is_alive_and_not_ready(
    app: Any, ask: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask(app, "/readyz").status_code == 200
    monkeypatch.setattr(Finder, "index", Silent())
    answer = ask(app, "/readyz")
    assert answer.status_code == 503
    assert "does not answer (refused)" in answer.text
    assert ask(app, "/healthz").status_code == 200
