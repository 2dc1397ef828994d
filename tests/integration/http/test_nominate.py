"""A bundle whose lists nominate, asked over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import twotower
from twotower.experiment.index_tuning import rebuild_index
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
