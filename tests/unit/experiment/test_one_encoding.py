"""After training the catalogue is encoded once, and all that needs item states is given those."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from twotower.core.records import Items
from twotower.data.dataset import Dataset
from twotower.experiment.run import Data, IndexSection, ModelSection, Run
from twotower.experiment.train import train
from twotower.models.two_tower import TwoTower
from twotower.serving.bundle import Bundle
from twotower.training.config import Objective, Training

NAMED = {"leave-one-out": Objective("full_softmax"), "pre-ranking": Objective("bce")}


@pytest.mark.parametrize("split", NAMED)
@pytest.mark.parametrize("index", ["exact", "brute_force"])
def test_a_run_encodes_the_catalogue_once_after_training(
    split: str, index: str, tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No epoch is validated, so that whatever encodes all items outside training comes after it.

    Pairs are scored row by row, with items that repeat; that is no catalogue.
    """
    calls = []
    original = TwoTower.encode_items

    def counted(self: TwoTower, items: Items) -> Tensor:
        ids = items.ids.tolist()
        if not self.training and len(set(ids)) == len(ids) >= len(tiny_dataset.known_items()):
            calls.append(ids)
        return original(self, items)

    monkeypatch.setattr(TwoTower, "encode_items", counted)
    options = {"reading": "all"} if split == "pre-ranking" else {}
    run = Run(
        data=Data(split=split, split_options=options),
        model=ModelSection("two_tower", {"dim": 4, "field_dim": 3, "hidden": [4]}),
        objective=NAMED[split],
        training=Training(epochs=1, batch_size=8, evaluate_every=0, device="cpu"),
        index=IndexSection(index),
    )
    trained = train(run, to=tmp_path / "bundle", dataset=tiny_dataset)
    assert calls == [tiny_dataset.known_items().tolist()]
    assert trained.diagnosis is not None
    assert trained.item_states.ids.tolist() == calls[0]
    bundle = Bundle.load(tmp_path / "bundle")
    assert isinstance(bundle.item_states, Tensor)
    assert torch.equal(bundle.item_states, trained.item_states.states)
    assert bundle.index is not None
