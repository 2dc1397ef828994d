"""A bundle whose lists nominate, asked over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import twotower
from twotower.experiment.index_tuning import rebuild_index
from twotower.experiment.ladder import climb
from twotower.index.nominate_index import NominateIndex


def test_the_service_answers_by_lists_and_fills_what_they_leave_open(
    build: Callable[..., Any], ask: Callable[..., Any], bundle_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = {"user": "u3", "k": 5, "exclude": ["i9"]}
    exact = ask(build(bundle_folder), "/v1/recommend", asked).json()["items"]
    rebuild_index(bundle_folder, "nominate", {"codes": 2, "longest": 2, "nearest": 1})
    retriever = twotower.load(bundle_folder)
    assert isinstance(retriever.bundle.index, NominateIndex)
    answer = ask(build(bundle_folder), "/v1/recommend", asked)
    assert answer.status_code == 200
    assert [item["id"] for item in answer.json()["items"]] == [item["id"] for item in exact]
    assert "answered by a scan" in caplog.text
    one = ask(build(bundle_folder), "/v1/recommend", {**asked, "k": 1}).json()["items"]
    assert [item["id"] for item in one] == [a.id for a in retriever.recommend("u3", k=1, exclude=["i9"])]


def test_the_service_answers_from_a_bundle_that_fit_wrote_with_that_index(
    build: Callable[..., Any], ask: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(climb, "LADDER", ("popularity", "ease"))
    rows = [f"{user},{(user + step) % 9},{step}" for user in range(30) for step in range(5)]
    (tmp_path / "log.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]))
    fitted = twotower.fit(tmp_path / "log.csv", to=tmp_path / "bundle", budget="1s", index="nominate")
    retriever = twotower.load(fitted.bundle)
    assert isinstance(retriever.bundle.index, NominateIndex)
    answer = ask(build(fitted.bundle, allow_collapsed=True), "/v1/recommend", {"user": "3", "k": 3})
    assert answer.status_code == 200, answer.text
    assert [item["id"] for item in answer.json()["items"]] == [found.id for found in retriever.recommend("3", k=3)]
