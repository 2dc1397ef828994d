"""The farthest of all known positives, found in three ways that give the same."""

from __future__ import annotations

import pytest
import torch

from twotower.core.schema import Schema
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.models.base import Model
from twotower.models.registry import build_model
from twotower.sampling.known import Positives
from twotower.training import farthest
from twotower.training.farthest import farthest_positives

ITEMS = 40
LENGTHS = [0, 0, 1, 9, 0, 3, 20]
"""Positives of each user; the first two are no users."""


@pytest.fixture
def dataset() -> Dataset:
    offsets = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0).tolist()])
    items = torch.cat([torch.randperm(ITEMS - 2)[:length] + 2 for length in LENGTHS])
    return Dataset(Schema(len(LENGTHS), ITEMS, (), (), has_times=False), Log(offsets, items), {}, {}, {"name": "small"})


@pytest.fixture
def model(dataset: Dataset) -> Model:
    torch.manual_seed(3)
    settings = {"dim": 6, "field_dim": 4, "hidden": [8], "dropout": 0.5, "score": "dot", "batch_norm": True}
    return build_model("two_tower", dataset.schema, settings).train()


USERS = torch.tensor([6, 3, 3, 4, 2, 5])
"""Of the rows: one user twice, and one without positives."""


def by_distance(model: Model, dataset: Dataset, vectors: torch.Tensor, scale: float) -> list[float]:
    """Row by row as it is defined: from squared distances."""
    states = model.eval().encode_items(dataset.all_items()).detach()
    model.train()
    found = []
    for user, vector in zip(USERS.tolist(), vectors, strict=True):
        mine = dataset.log.items[dataset.log.offsets[user] : dataset.log.offsets[user + 1]]
        squared = (states[mine] - vector).square().sum(1)
        found.append(scale * float(vector.square().sum() - squared.max()) / 2.0 if len(mine) else float("inf"))
    return found


@pytest.mark.parametrize("way", ["pairs", "pairs in parts", "table", "table in parts", "all items"])
def test_every_way_finds_the_farthest_positive(way, model, dataset, monkeypatch):
    monkeypatch.setattr(farthest, "PAIR", 0 if "pairs" in way else 1 << 20)
    monkeypatch.setattr(farthest, "TABLE", 70 if "parts" in way else 1 << 20)
    monkeypatch.setattr(farthest, "WAITING", ("cpu",) if way == "all items" else ())
    positives = Positives(dataset.log.offsets, dataset.log.items, ITEMS)
    vectors = torch.randn(len(USERS), 6, requires_grad=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = farthest_positives(model, dataset, positives, USERS, vectors, 2.5)
    assert found.tolist() == pytest.approx(by_distance(model, dataset, vectors.detach(), 2.5), rel=1e-5, abs=1e-5)
    assert not found.requires_grad
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} moved"


def test_all_items_are_walked_only_where_memory_allows(model, dataset, monkeypatch):
    monkeypatch.setattr(farthest, "WAITING", ("cpu",))
    monkeypatch.setattr(farthest, "_among_all", None)
    positives = Positives(dataset.log.offsets, dataset.log.items, ITEMS)
    vectors = torch.randn(len(USERS), 6)
    for limit in ("MOST_SCORES", "MOST_PADDED"):
        with monkeypatch.context() as patch:
            patch.setattr(farthest, limit, 100)
            found = farthest_positives(model, dataset, positives, USERS, vectors, 1.0)
        assert found.tolist() == pytest.approx(by_distance(model, dataset, vectors, 1.0), rel=1e-5, abs=1e-5)


def test_without_positives_or_rows_nothing_is_encoded(model, dataset, monkeypatch):
    monkeypatch.setattr(model, "encode_items", None)
    nobody = Positives(torch.zeros(len(LENGTHS) + 1, dtype=torch.int64), torch.empty(0, dtype=torch.int64), ITEMS)
    assert farthest_positives(model, dataset, nobody, USERS, torch.randn(6, 6), 1.0).isinf().all()
    positives = Positives(dataset.log.offsets, dataset.log.items, ITEMS)
    assert farthest_positives(model, dataset, positives, USERS[:0], torch.randn(0, 6), 1.0).shape == (0,)
