"""A small prepared data set with outside ids and titles, and bundles written from it."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest
import torch

from twotower.data.dataset import Dataset
from twotower.models.base import Model
from twotower.models.encode import encode_known_items
from twotower.models.registry import build_model
from twotower.serving.contents import Contents, write_bundle

TITLES = ["Alien", "Brazil", "Casablanca", "Duel", "Eraserhead", "Fargo", "Gaslight", "Heat"]


@pytest.fixture
def heeds_ctrl_c() -> Iterator[None]:
    """What the test starts heeds Ctrl-C, even where the tests run as a background job of a shell, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small prepared data set with features, by the synthetic source: 60 users, 40 items, 3 of them new."""
    from twotower.data import sources
    from twotower.data.prepare.prepare import prepare
    from twotower.data.prepare.spec import Spec
    from twotower.data.sources.synthetic import Synthetic

    folder = tmp_path_factory.mktemp("data")
    spec = sources.get("synthetic", folder / "raw", settings=Synthetic(users=60, items=40, cold_items=3, events=8))
    return prepare(Spec.from_toml(spec), folder / "prepared")


@pytest.fixture(scope="session")
def vocabularies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the vocabulary of `titled_dataset`, which is written once and copied."""
    return tmp_path_factory.mktemp("titled") / "vocabulary"


@pytest.fixture
def titled_dataset(tiny_dataset: Dataset, vocabularies: Path, tmp_path: Path) -> Dataset:
    """`tiny_dataset` with a vocabulary: users u2 to u6, items i2 to i9 with a title and a year.

    The value of row r of a feature's vocabulary is its name and r: brand2, title11.
    """
    if not vocabularies.is_dir():
        write_vocabularies(tiny_dataset, vocabularies)
    return replace(tiny_dataset, folder=shutil.copytree(vocabularies, tmp_path / "prepared" / "vocabulary").parent)


def write_vocabularies(dataset: Dataset, folder: Path) -> None:
    folder.mkdir()
    connection = duckdb.connect()
    connection.execute(
        f"COPY (SELECT row, 'u' || row AS id FROM range(2, 7) AS t(row)) TO '{folder / 'users.parquet'}'"
    )
    connection.execute("CREATE TABLE items (row BIGINT, id VARCHAR, year INTEGER, title VARCHAR)")
    connection.executemany(
        "INSERT INTO items VALUES (?, ?, ?, ?)", [(row, f"i{row}", 1970 + row, TITLES[row - 2]) for row in range(2, 10)]
    )
    connection.execute(f"COPY items TO '{folder / 'items.parquet'}'")
    for feature in dataset.schema.item_features:
        if feature.is_discrete:
            values = f"SELECT row, '{feature.name}' || row AS value FROM range(2, {feature.size}) AS t(row)"
            connection.execute(f"COPY ({values}) TO '{folder / f'item.{feature.name}.parquet'}'")
    connection.close()


@pytest.fixture
def write() -> Callable[..., Model]:
    """Write a bundle of a new, untrained model into a folder, and return the model."""

    def written(folder: Path, dataset: Dataset, name: str = "two_tower", **more: Any) -> Model:
        parameters = more.pop("parameters", {"dim": 5, "field_dim": 3, "hidden": [4]} if name == "two_tower" else {})
        torch.manual_seed(3)
        model = build_model(name, dataset.schema, parameters)
        rest = {"run_toml": "[training]\nseed = 3\n", "metrics": {"recall@10": 0.25}, "histories": dataset.log, **more}
        items = encode_known_items(model, dataset)
        contents = Contents(
            model=model, model_name=name, model_parameters=parameters, dataset=dataset, items=items, **rest
        )
        write_bundle(folder, contents)
        return model

    return written


@pytest.fixture
def bundle_folder(write: Callable[..., Model], titled_dataset: Dataset, tmp_path: Path) -> Path:
    """A bundle of a two-tower model."""
    write(tmp_path / "bundle", titled_dataset)
    return tmp_path / "bundle"
