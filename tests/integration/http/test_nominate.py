"""Bundles that answer by lists, asked over HTTP: those that nominate, and those of a model's own codes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import twotower
from twotower.data import sources
from twotower.data.dataset import Dataset
from twotower.data.prepare.prepare import prepare
from twotower.data.prepare.spec import Spec
from twotower.data.sources.synthetic import Synthetic
from twotower.experiment.index_tuning import rebuild_index
from twotower.experiment.ladder import climb
from twotower.experiment.run import IndexSection, ModelSection, Run
from twotower.experiment.train import train
from twotower.index.nominate_index import NominateIndex
from twotower.index.postings_index import PostingsIndex
from twotower.training.config import Training


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


def test_a_model_that_scores_nothing_above_0_answers_by_popularity_and_not_with_an_error(
    build: Callable[..., Any], ask: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = sources.get("synthetic", tmp_path / "raw", settings=Synthetic(users=40, items=60, cold_items=0, events=8))
    run = Run(
        model=ModelSection("sparcode", {"codebook": 4, "dim": 8, "activation": "relu", "bias": -1e6, "warm_up": 0.0}),
        training=Training(epochs=1, patience=0),
        index=IndexSection("postings"),
    )
    data = Dataset.load(prepare(Spec.from_toml(spec), tmp_path / "data"))
    train(run, dataset=data, to=tmp_path / "bundle")
    bundle = twotower.load(tmp_path / "bundle").bundle
    assert isinstance(bundle.index, PostingsIndex)
    (user,) = bundle.user_vocabulary.ids([5])
    seen = set(bundle.positives.seen(torch.tensor([5]))[0].tolist())
    events = bundle.positives.items.bincount(minlength=bundle.schema.num_items)
    order = sorted(set(bundle.item_ids.tolist()) - seen, key=lambda row: (-int(events[row]), row))
    answer = ask(build(tmp_path / "bundle", allow_collapsed=True), "/v1/recommend", {"user": user, "k": 5})
    assert answer.status_code == 200, answer.text
    assert [item["id"] for item in answer.json()["items"]] == bundle.item_vocabulary.ids(order[:5])
    assert {item["score"] for item in answer.json()["items"]} == {0.0}
    assert "such users get the most popular items (said once)" in caplog.text


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
