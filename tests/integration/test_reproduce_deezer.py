"""SparCode's table of new users on small files in Deezer's layout: read, prepared, every row trained and summed up."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pytest
import torch
from deezer_files import write_deezer
from safetensors.torch import load_file
from torch import Tensor

from twotower.data import sources
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.data.prepare.prepare import prepare
from twotower.data.prepare.spec import Spec
from twotower.data.split import Split
from twotower.experiment.run import Run
from twotower.models.base import Model
from twotower.reproduce.sparcode import cold
from twotower.reproduce.sparcode import measure as measuring
from twotower.reproduce.study import Cell, run_table, seeded
from twotower.reproduce.summary import summarise

DATA = "deezer-cold-start"
SONGS, KINDS = 160, 4
FOLDS = {"train": 56, "validation": 16, "test": 8}
SMALL = {"dim": 8, "field_dim": 4, "factor_dim": 8, "anchors": 5}


def listening() -> dict[str, list[list[int]]]:
    """Every user's songs by fold: nine of the own kind's forty, low numbers more often, and three of all."""
    draw = random.Random(5)

    def heard(place: int) -> list[int]:
        own = {KINDS * int(40 * draw.random() ** 2) + place % KINDS for _ in range(9)}
        songs = sorted(own | set(draw.sample(range(SONGS), 3)))
        draw.shuffle(songs)
        return songs

    return {fold: [heard(place) for place in range(users)] for fold, users in FOLDS.items()}


def small(run: Run) -> Run:
    settings: dict[str, Any] = {name: SMALL.get(name, value) for name, value in run.model.settings.items()}
    if settings.get("hidden"):
        settings["hidden"] = [8 for _ in settings["hidden"]]
    if "clusters" in settings:
        settings["clusters"] //= 5
    if run.model.name == "sparcode" and settings.get("codes") != "none":
        settings |= {"codebook": 8}
    drawn = tuple(
        replace(source, settings={name: min(20, value) for name, value in source.settings.items()})
        for source in run.sampling.sources
    )
    return replace(
        run,
        model=replace(run.model, settings=settings),
        sampling=replace(run.sampling, sources=drawn),
        training=replace(run.training, epochs=2, batch_size=128, device="cpu"),
    )


def small_rows(data: str) -> dict[str, list[Run]]:
    return {name: [small(run) for run in runs] for name, runs in cold.variants(data).items()}


class Learnt(NamedTuple):
    """What one training was given and made."""

    split: Split
    model: Model
    weights: Mapping[str, Tensor]


@pytest.fixture
def learnt(monkeypatch: pytest.MonkeyPatch) -> dict[str, Learnt]:
    """Every training of the test, under its run; a later one of the same run replaces the earlier."""
    kept: dict[str, Learnt] = {}
    learn = measuring.learn

    def watched(run: Run, dataset: Dataset, split: Split, **options: Any) -> Any:
        model, records = learn(run, dataset, split, **options)
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        kept[run.to_toml()] = Learnt(split, model, weights)
        return model, records

    monkeypatch.setattr(measuring, "learn", watched)
    return kept


def ids(prepared: Path, side: str) -> dict[int, int]:
    """The number in Deezer's files of each row."""
    path = prepared / "vocabulary" / f"{side}.parquet"
    return {row: int(name) for row, name in duckdb.sql(f"SELECT row, id FROM '{path}'").fetchall()}


def with_other_songs(dataset: Dataset, users: Tensor) -> Dataset:
    """The data set as if these users had heard other songs, as many."""
    log, songs = dataset.log, dataset.schema.num_items - 2
    shifted = 2 + (log.items - 2 + songs // 2) % songs
    return dataset.with_log(Log(log.offsets, torch.where(torch.isin(log.users(), users), shifted, log.items)))


@pytest.mark.slow
def test_every_row_on_deezers_files_and_no_event_of_who_is_asked_about_is_learnt(tmp_path, learnt):
    folds = listening()
    heard = dict(enumerate(songs for users in folds.values() for songs in users))
    copy = write_deezer(tmp_path / "copy", folds, SONGS)
    spec = sources.get(DATA, tmp_path / "raw", from_path=copy)
    prepared = prepare(Spec.from_toml(spec), tmp_path / "prepared")
    dataset, user_of, song_of = Dataset.load(prepared), ids(prepared, "users"), ids(prepared, "items")
    assert [(one.name, one.kind) for one in dataset.schema.user_features] == [("registration", "vector")]
    assert [(one.name, one.kind) for one in dataset.schema.item_features] == [("embedding", "vector")]
    assert sorted(song_of.values()) == list(range(SONGS))

    table, data = replace(cold.TABLE, variants=small_rows), {DATA: prepared}
    chosen = run_table(table, data, tmp_path / "cells", seeds=1, device="cpu")
    figures = summarise(table, data, chosen, 1, tmp_path / "cells")[DATA]
    recalls = {figure.variant: figure.mean for figure in figures if figure.metric == "recall@50"}
    assert list(recalls) == list(cold.variants(DATA))
    assert len(recalls) == 12
    assert all(0.0 < recall < 1.0 for recall in recalls.values()), recalls  # neither holds for NaN

    runs = {name: seeded(run, 1) for name, run in chosen[DATA].items()}
    for name, run in runs.items():
        found = learnt[run.to_toml()]
        cell = Cell(table.name, DATA, prepared, name, run).path(tmp_path / "cells")
        rows = load_file(cell.with_suffix(".safetensors"))["users"]
        asked = {user_of[row] for row in rows.tolist()}
        judged = {user_of[row] for row in found.split.validation.truth.users().tolist()}
        known = set(heard) - asked - judged
        assert (len(known), len(judged), len(asked)) == (56, 8, 16)
        trained = {
            (user_of[user], song_of[song])
            for user, song in zip(found.split.train.users().tolist(), found.split.train.items.tolist(), strict=True)
        }
        assert trained == {(user, song) for user in known for song in heard[user]}
        assert not found.split.test.history.num_events

        if name == "popularity":
            counts = Counter(song for user in known for song in heard[user])
            assert {song_of[row]: int(found.weights["counts"][row]) for row in song_of} == {
                song: counts[song] for song in range(SONGS)
            }
            best = sorted(song_of, key=lambda row: (-counts[song_of[row]], row))[:50]
            shares = [len({song_of[row] for row in best} & set(heard[user])) / len(heard[user]) for user in asked]
            assert recalls[name] == pytest.approx(sum(shares) / len(shares), abs=1e-6)

        # Had those who are asked about heard other songs, every number of the model would be the same.
        cold.measure_dense(run, with_other_songs(dataset, rows), None)
        again = learnt[run.to_toml()]
        assert again.weights.keys() == found.weights.keys()
        assert all(torch.equal(again.weights[key], value) for key, value in found.weights.items()), name
        assert not torch.equal(again.split.test.truth.items, found.split.test.truth.items)
