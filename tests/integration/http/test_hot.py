"""The short way of a known user's request: the same bytes as the route behind it, and only where nothing is wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import twotower
from twotower.data.dataset import Dataset
from twotower.experiment.index_tuning import rebuild_index
from twotower.models.base import Model

pytest.importorskip("fastapi")

from twotower.serving.http import hot
from twotower.serving.http.limits import Limits
from twotower.serving.known import KnownUsers

Build = Callable[..., Any]
USERS = ["u2", "u3", "u4", "u2", "u3", "u4"]
"""Each twice: the second time by what was kept."""


@pytest.fixture(params=["two_tower", "two_tower hnsw", "sasrec", "item_lists"])
def folder(
    request: pytest.FixtureRequest, write: Callable[..., Model], titled_dataset: Dataset, tmp_path: Path
) -> Path:
    name, _, index = request.param.partition(" ")
    write(
        tmp_path / "one", titled_dataset, name, **({"parameters": {"dim": 4, "heads": 1}} if name == "sasrec" else {})
    )
    if index:
        rebuild_index(tmp_path / "one", index)
    return tmp_path / "one"


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of users who were answered the short way."""
    taken: list[int] = []
    recommend = KnownUsers.recommend

    def noted(self: KnownUsers, row: int, k: int, *, include_seen: bool | None = None) -> Any:
        taken.append(row)
        return recommend(self, row, k, include_seen=include_seen)

    monkeypatch.setattr(KnownUsers, "recommend", noted)
    return taken


@pytest.mark.parametrize("at_once", [-1.0, 1e9])
def test_both_ways_answer_with_the_same_bytes_and_the_retrievers_items(
    at_once: float, build: Build, ask: Build, folder: Path, short: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hot, "AT_ONCE", at_once)
    app, retriever = build(folder), twotower.load(folder)
    for user in USERS:
        for more in ({}, {"k": 2}, {"k": 8, "include_seen": True}, {"include_seen": False}, {"include_seen": None}):
            quick = ask(app, "/v1/recommend", {"user": user, "k": 3, **more})
            before = len(short)
            slow = ask(app, "/v1/recommend", {"user": user, "k": 3, **more, "exclude": []})
            assert before == len(short)
            assert (quick.status_code, quick.content) == (200, slow.content)
            assert quick.headers["content-type"] == slow.headers["content-type"]
            found = retriever.recommend(user, **{"k": 3, **more})
            assert [(item["id"], item["score"]) for item in quick.json()["items"]] == [(a.id, a.score) for a in found]
    assert len(short) == 5 * len(USERS)


BODIES = [
    ({"user": "u2", "k": 8}, True),
    ({"user": "u2", "include_seen": None, "k": 1}, True),
    ({"user": "u2", "k": 1000}, False),  # there are fewer items, and a notice says so
    ({"user": "u2", "k": 7, "include_seen": False}, True),
    ({"user": "u2", "k": 0}, False),
    ({"user": "u2", "k": True}, False),
    ({"user": "u2", "k": 2.0}, False),
    ({"user": True}, False),
    ({"user": "u33"}, False),
    ({"user": "u2", "include_seen": 1}, False),
    ({"user": "u2", "history": []}, False),
    ({"user": "u2", "kk": 1}, False),
    ({"user": "u2" + " " * 2000}, False),
    (["u2"], False),
]


@pytest.mark.parametrize(("body", "taken"), BODIES)
def test_only_what_is_right_in_every_way_is_taken(
    body: Any, taken: bool, build: Build, ask: Build, bundle_folder: Path, short: list[int]
) -> None:
    answer = ask(build(bundle_folder), "/v1/recommend", body)
    assert bool(short) == taken
    if taken:
        assert (answer.status_code, answer.json()["notices"]) == (200, [])
    else:
        assert answer.status_code != 200 or answer.json()["notices"] or "history" in body


@pytest.mark.parametrize("kind", ["text/plain", "application/json; charset=utf-8", ""])
def test_a_body_of_another_kind_goes_to_the_route(
    kind: str, build: Build, ask: Build, bundle_folder: Path, short: list[int]
) -> None:
    answer = ask(
        build(bundle_folder), "/v1/recommend", method="POST", content=b'{"user": "u2"}', headers={"Content-Type": kind}
    )
    assert answer.status_code == (200 if "json" in kind else 415)
    assert not short


@pytest.mark.parametrize("body", [b'{"user": "u2", "k": 1' + b"0" * 6000 + b"}", b"[" * 1000, b'{"user": "\xff"}', b""])
def test_bytes_that_are_no_such_request_are_refused_by_the_route(
    body: bytes, build: Build, ask: Build, bundle_folder: Path
) -> None:
    assert ask(build(bundle_folder), "/v1/recommend", body).status_code == 400


def sent(app: Any, parts: list[dict[str, Any]]) -> tuple[int, Any]:
    """Status and JSON of a request whose body comes as these messages; after them nothing comes."""

    async def run() -> tuple[int, Any]:
        waiting, answer = list(parts), []

        async def receive() -> dict[str, Any]:
            if waiting:
                return waiting.pop(0)
            await asyncio.sleep(3600)
            raise AssertionError

        async def send(message: Any) -> None:
            answer.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "path": "/v1/recommend",
            "raw_path": b"/v1/recommend",
            "query_string": b"",
            "scheme": "http",
            "headers": [(b"content-type", b"application/json")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }
        await app(scope, receive, send)
        return answer[0]["status"], json.loads(b"".join(part.get("body", b"") for part in answer))

    return asyncio.run(run())


def test_a_body_in_pieces_is_read_whole_whichever_way_it_goes(
    build: Build, bundle_folder: Path, short: list[int]
) -> None:
    for padding, taken in ((0, 1), (hot.LONGEST_BODY, 0)):
        pieces = [
            {"type": "http.request", "body": b'{"us', "more_body": True},
            {"type": "http.request", "body": b'er": "u2", ' + b" " * padding, "more_body": True},
            {"type": "http.request", "body": b'"k": 2}', "more_body": True},
            {"type": "http.request", "body": b"", "more_body": False},
        ]
        short.clear()
        status, answer = sent(build(bundle_folder), pieces)
        assert (status, len(answer["items"]), len(short)) == (200, 2, taken)


def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_fault_of_ours(build: Build, bundle_folder: Path) -> None:
    pieces = [{"type": "http.request", "body": b'{"us', "more_body": True}, {"type": "http.disconnect"}]
    assert sent(build(bundle_folder), pieces)[0] == 400


def test_a_body_that_does_not_come_is_waited_for_no_longer_than_is_said(build: Build, bundle_folder: Path) -> None:
    app = build(bundle_folder, limits=Limits(body_seconds=0.05))
    status, answer = sent(app, [])
    assert (status, "did not come within 0.05 s" in answer["error"]) == (408, True)
    assert 'route="/v1/recommend",status="408"} 1' in app.state.service.metrics.text(model="", digest="", ready=True)


def test_a_fault_on_the_short_way_is_an_answer_too(
    build: Build, ask: Build, bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ZeroDivisionError("planted")

    app = build(bundle_folder)
    monkeypatch.setattr(KnownUsers, "recommend", fails)
    answer = ask(app, "/v1/recommend", {"user": "u2", "k": 3})
    assert (answer.status_code, "planted" in answer.text) == (500, False)


def test_what_is_kept_of_users_has_a_bound_and_the_oldest_goes_first(bundle_folder: Path) -> None:
    retriever = twotower.load(bundle_folder)
    retriever.preload()
    known = KnownUsers(retriever, budget=2500)
    lists = {}
    for user in ("u2", "u3", "u4", "u2", "u4"):
        row = known.row(user)
        assert row is not None
        found = [item.id for item in known.recommend(row, 3)]
        assert lists.setdefault(user, found) == found
        assert known.seconds(row) == known.search_seconds  # it is kept
        assert len(known) <= 2
    first = known.row("u3")
    assert first is not None
    assert known.seconds(first) == known.search_seconds + known.encode_seconds
    assert known.row("nobody") is None
