"""A finished training that goes on with more epochs ends like one that had them from the start, to the bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from twotower.core.seeds import torch_generator
from twotower.data.dataset import Dataset
from twotower.data.examples import EventRows
from twotower.losses.sampled_softmax import SampledSoftmax
from twotower.models.base import Model
from twotower.models.two_tower import TwoTower
from twotower.sampling.known import Positives
from twotower.sampling.uniform import Uniform
from twotower.training.against_samples import AgainstSamples
from twotower.training.callbacks import JsonLines
from twotower.training.config import Training
from twotower.training.loop import fit
from twotower.training.state import Progress

CONFIG = Training(epochs=7, batch_size=3, learning_rate=0.05, warmup_steps=2)


def trained(
    dataset: Dataset, config: Training, *, folder: Path | None = None, judged: bool = True, **more: Any
) -> tuple[Model, Progress]:
    """A small model after these epochs, whose validation metric moves up and down as weights do."""
    torch.manual_seed(5)
    model = TwoTower(dataset.schema, dim=8, field_dim=4, hidden=(8,), dropout=0.2, id_dropout=0.2)
    rows = EventRows(dataset, dataset.log, history_length=3, item_features=True)
    sampler = Uniform(dataset.schema.num_items, 3, torch_generator(0, "uniform"))
    positives = Positives(dataset.log.offsets, dataset.log.items, dataset.schema.num_items)
    objective = AgainstSamples(dataset, sampler, SampledSoftmax(), positives)

    def judge(current: Model) -> dict[str, float]:
        torch.rand(3)  # a validation may draw too
        return {"ndcg@10": float(sum(part.detach().double().sum() for part in current.parameters()).sin())}

    if folder is not None:
        callbacks = [*more.pop("callbacks", []), JsonLines(folder / "train.jsonl")]
        more |= {"checkpoint": folder / "train.safetensors", "callbacks": callbacks}
    return model, fit(model, rows, objective, config, validate=judge if judged else None, **more)


def lines(folder: Path) -> list[dict[str, Any]]:
    """The log of a training, without its clock."""
    return [json.loads(line) | {"seconds": 0} for line in (folder / "train.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("evaluate_every", "first"), [(1, 2), (2, 2), (2, 4), (3, 2), (3, 4), (0, 4)])
def test_more_epochs_equal_all_of_them_from_the_start(evaluate_every, first, tiny_dataset, tmp_path):
    config = replace(CONFIG, evaluate_every=evaluate_every)
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    model, whole = trained(tiny_dataset, config, folder=tmp_path / "whole")
    trained(tiny_dataset, replace(config, epochs=first), folder=tmp_path / "parts")
    longer, parts = trained(tiny_dataset, config, folder=tmp_path / "parts", resume=True)
    expected = model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in longer.state_dict().items())
    assert (parts.best, parts.best_epoch, parts.step) == (whole.best, whole.best_epoch, whole.step)
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")


def test_a_finished_training_that_is_resumed_as_it_was_changes_nothing(tiny_dataset, tmp_path):
    config = replace(CONFIG, epochs=3, evaluate_every=2)
    model, _ = trained(tiny_dataset, config, folder=tmp_path)
    before = lines(tmp_path)
    again, progress = trained(tiny_dataset, config, folder=tmp_path, resume=True)
    expected = model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in again.state_dict().items())
    assert [line["epoch"] for line in before] == [1, 2, 3] == [record.epoch for record in progress.records]
    assert lines(tmp_path) == before


def test_early_stopping_holds_for_more_epochs_too(tiny_dataset, tmp_path):
    config = replace(CONFIG, patience=1, patience_steps=0, patience_loss=0.0)
    _, first = trained(tiny_dataset, config, folder=tmp_path)
    assert first.epoch < config.epochs
    _, longer = trained(tiny_dataset, replace(config, epochs=20), folder=tmp_path, resume=True)
    assert longer.step == first.step
