"""How pre-rankers train: in half precision, on a batch of one row, and with fields of COLD chosen on the way."""

from __future__ import annotations

import logging
import math

import pytest
import torch

from twotower.core.errors import InputError
from twotower.core.records import Batch
from twotower.models.registry import build_model
from twotower.training.config import Training
from twotower.training.loop import fit
from twotower.training.objective import AgainstLabels

SMALL = {"hidden": (8, 6), "field_dim": 4}
HEADS = {"dim": 6, "item_heads": 2, "user_heads": 3}
MODELS = {
    "dat": ("dat", {"dim": 6}),
    "cold": ("cold", {}),
    "int_tower": ("int_tower", HEADS),
    "rank_tower": ("rank_tower", HEADS),
    **{
        f"fit-{unit}": ("fit", {**HEADS, "meta_queries": 5, "interaction": unit})
        for unit in ("din", "dien", "target_attention", "deepfm")
    },
    **{
        f"fit-{scorer}": ("fit", {"dim": 6, "meta_queries": 5, "scorer": scorer, **heads})
        for scorer, heads in {"sum_max": {}, "flat_fc": {}, "dot": {"item_heads": 1, "user_heads": 1}}.items()
    },
    "fit-no-queries": ("fit", {**HEADS, "meta_queries": 0}),
}


def make(name, dataset, **more):
    torch.manual_seed(2)
    base, settings = MODELS[name]
    model = build_model(base, dataset.schema, {**SMALL, **settings, **more})
    model.attach_items(dataset.all_items())
    return model


def batch_of(dataset, rows):
    users = dataset.users(
        torch.tensor([2, 3, 1, 4])[:rows], torch.tensor([[2, 3, 4], [5, 0, 0], [0, 0, 0], [7, 8, 0]])[:rows]
    )
    return Batch(users, dataset.items(torch.tensor([6, 2, 9, 6])[:rows]), torch.tensor([1.0, 0.0, 1.0, 0.0])[:rows])


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("half", [False, True])
def test_a_step_moves_the_weights(name, rows, half, tiny_dataset):
    model = make(name, tiny_dataset).train()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        loss = AgainstLabels()(model, batch_of(tiny_dataset, rows))
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert math.isfinite(loss.item())
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize("name", MODELS)
def test_half_precision_is_near_the_whole_one(name, tiny_dataset):
    model, batch = make(name, tiny_dataset).eval(), batch_of(tiny_dataset, 4)
    with torch.inference_mode():
        expected = model.score_pairs(batch)
        with torch.autocast("cpu", torch.bfloat16):
            found = model.score_pairs(batch)
    torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.1)


def test_one_row_is_normalised_by_what_was_learnt(tiny_dataset):
    """As in serving: the row has no variance of its own, and leaves the running ones alone."""
    model = make("cold", tiny_dataset)
    for norm in model.stack.norms:
        norm.running_mean.uniform_(), norm.running_var.uniform_(0.5, 2.0)
    before = state_of(model)
    batch = batch_of(tiny_dataset, 1)
    trained = model.train().score_pairs(batch)
    torch.testing.assert_close(trained, model.eval().score_pairs(batch))
    torch.testing.assert_close(state_of(model), before, rtol=0, atol=0, equal_nan=True)


class Repeated:
    """The same four rows for ever."""

    lengths = None

    def __init__(self, dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return 4

    def cut(self, rows):
        assert len(rows) == len(self)
        return batch_of(self.dataset, len(self))


def test_cold_keeps_the_fields_that_weigh_most(tiny_dataset):
    model = make("cold", tiny_dataset, keep_fields=3, select_after=2)
    with torch.no_grad():
        model.excitation.weight.zero_()
        model.excitation.bias.copy_(torch.linspace(-2, 2, model.num_fields).roll(1))
    heaviest = set(model.excitation.bias.argsort(descending=True)[:3].tolist())
    kept = []

    def validate(current):
        kept.append((set(current.kept.nonzero().flatten().tolist()), current.selectable))
        return {"auc": 1.0 / len(kept)}

    config = Training(epochs=4, batch_size=4, learning_rate=1e-4, metric="auc")
    progress = fit(model, Repeated(tiny_dataset), AgainstLabels(), config, validate=validate)
    every = set(range(model.num_fields))
    assert kept == [(every, False), (every, False), (heaviest, True), (heaviest, True)]
    assert progress.best_epoch == 3
    weights = model.eval().field_weights(batch_of(tiny_dataset, 4))
    assert set(weights.nonzero().flatten().tolist()) == heaviest


def half_right(model):
    return {"auc": 0.5}


def test_a_resumed_training_keeps_the_same_fields(tiny_dataset, tmp_path):
    config = Training(epochs=3, batch_size=4, learning_rate=0.05, metric="auc")
    ends = []
    for stops in ((3,), (1, 3), (2, 3)):
        for epochs in stops:
            model, path = make("cold", tiny_dataset, keep_fields=4), tmp_path / f"{stops}.safetensors"
            parts = {"checkpoint": path, "resume": epochs != stops[0], "epochs": epochs}
            fit(model, Repeated(tiny_dataset), AgainstLabels(), config, validate=half_right, **parts)
        ends.append(state_of(model))
    assert int(ends[0]["kept"].sum()) == 4
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=0, atol=0, equal_nan=True)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep_fields": 99}, r"keep_fields = 99: there are \d+ fields; 0 keeps all"),
        ({"keep_fields": -1}, "keep_fields = -1"),
        ({"keep_fields": 2, "select_after": 0}, "select_after = 0: weights are learnt for an epoch at least"),
    ],
)
def test_fields_that_cannot_be_kept(settings, message, tiny_dataset):
    with pytest.raises(InputError, match=message):
        make("cold", tiny_dataset, **settings)


def test_patience_waits_for_the_queries_to_be_hard(tiny_dataset):
    model = make("fit-din", tiny_dataset)
    scores = iter([0.9, 0.5, 0.6, 0.4])
    config = Training(epochs=9, batch_size=4, metric="auc", patience=1, patience_steps=0, patience_loss=0.0)
    progress = fit(
        model, Repeated(tiny_dataset), AgainstLabels(), config, validate=lambda current: {"auc": next(scores)}
    )
    assert (progress.epoch, progress.best_epoch) == (4, 3)


def test_too_few_epochs_are_told_of(tiny_dataset, caplog):
    model, config = make("fit-din", tiny_dataset), Training(epochs=1, batch_size=4, metric="auc")
    with caplog.at_level(logging.WARNING):
        fit(model, Repeated(tiny_dataset), AgainstLabels(), config, validate=half_right)
    assert "those of the last are kept; train for more epochs" in caplog.text
    caplog.clear()
    fit(model, Repeated(tiny_dataset), AgainstLabels(), config)  # nothing validates, nothing is chosen
    assert not caplog.text
