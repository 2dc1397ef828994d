"""Gradient caching: the loss and gradients of the whole batch, from encodings of a few rows at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from twotower.core.errors import InputError
from twotower.data.examples import EventRows
from twotower.data.splitters import leave_one_out
from twotower.experiment.learn import learn
from twotower.experiment.recipes import default_run
from twotower.experiment.run import ModelSection
from twotower.losses.sampled_softmax import SampledSoftmax
from twotower.models.registry import build_model
from twotower.sampling.counts import ItemCounts
from twotower.sampling.in_batch import InBatch
from twotower.sampling.known import Positives
from twotower.sampling.uniform import Uniform
from twotower.training import gradient_cache
from twotower.training.against_all import AgainstAll
from twotower.training.against_samples import AgainstSamples
from twotower.training.config import Training
from twotower.training.gradient_cache import GradientCached
from twotower.training.loop import fit
from twotower.training.regularise import Regulariser

SETTINGS = {"dim": 6, "field_dim": 4, "hidden": [5], "user_id": True, "pooling": "both"}


@pytest.fixture
def dataset(tiny_dataset):
    """Features in float64, as a model in float64 wants them."""

    def widened(columns):
        return {name: part.double() if part.is_floating_point() else part for name, part in columns.items()}

    features = {side: widened(getattr(tiny_dataset, side)) for side in ("user_features", "item_features")}
    return replace(tiny_dataset, **features)


def built(dataset, **settings):
    torch.manual_seed(3)
    return build_model("two_tower", dataset.schema, SETTINGS | settings).double()


def objective_of(kind: str, dataset):
    schema, log = dataset.schema, dataset.log
    if kind == "full softmax":
        return AgainstAll(dataset, Regulariser({"uniformity": 0.3}))
    if kind == "in-batch":
        sampler = InBatch(ItemCounts(log.items, schema.num_items))
    else:
        sampler = Uniform(schema.num_items, 5, torch.Generator().manual_seed(0))
    regulariser = Regulariser({"decorrelation": 0.3})
    return AgainstSamples(
        dataset, sampler, SampledSoftmax(), Positives(log.offsets, log.items, schema.num_items), regulariser
    )


def gradients(model) -> dict[str, torch.Tensor]:
    found = {name: part.grad.clone() for name, part in model.named_parameters() if part.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("rows", [1, 4, 7, 100])
@pytest.mark.parametrize("kind", ["in-batch", "uniform", "full softmax"])
def test_loss_and_gradients_are_those_of_the_plain_step(kind, rows, dataset):
    model = built(dataset)
    batch = EventRows(dataset, dataset.log, history_length=3, item_features=True).cut(torch.arange(18))
    plain = objective_of(kind, dataset)(model, batch)
    plain.backward()
    expected = gradients(model)
    cached = GradientCached(objective_of(kind, dataset), rows)(model, batch)
    cached.backward()
    found = gradients(model)
    torch.testing.assert_close(cached, plain, rtol=1e-13, atol=0)
    assert found.keys() == expected.keys()
    for name, part in expected.items():
        torch.testing.assert_close(found[name], part, rtol=1e-11, atol=1e-14)


def test_each_part_is_encoded_twice_and_never_more_rows_at_once(dataset, monkeypatch):
    model, calls = built(dataset), []
    encode = type(model).encode_users

    def counted(self, users):
        calls.append(len(users.ids))
        return encode(self, users)

    monkeypatch.setattr(type(model), "encode_users", counted)
    batch = EventRows(dataset, dataset.log, history_length=3, item_features=True).cut(torch.arange(18))
    loss = GradientCached(objective_of("in-batch", dataset), 5)(model, batch)
    assert calls == [5, 5, 5, 3]
    loss.backward()
    assert sorted(calls) == [3, 3, 5, 5, 5, 5, 5, 5]


def test_what_lies_between_layers_is_let_go_until_gradients_need_it(dataset):
    model = built(dataset, hidden=[512])
    batch = EventRows(dataset, dataset.log, history_length=3, item_features=True).cut(torch.arange(18))

    def held(objective) -> int:
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda part: kept.append(part.shape) or part, lambda part: part):
            objective(model, batch)
        return sum(shape == (18, 512) or shape == (2, 512) for shape in kept)

    assert held(objective_of("in-batch", dataset)) >= 2
    assert held(GradientCached(objective_of("in-batch", dataset), 2)) == 0


def test_dropout_is_drawn_alike_both_times(dataset):
    model = built(dataset, dropout=0.4, history_dropout=0.4, feature_dropout=0.3, id_dropout=0.2)
    batch = EventRows(dataset, dataset.log, history_length=3, item_features=True).cut(torch.arange(18))
    objective = GradientCached(objective_of("in-batch", dataset), 5)

    def loss() -> torch.Tensor:
        torch.manual_seed(11)
        return objective(model, batch)

    loss().backward()
    weight = next(part for part in model.user_mlp.parameters() if part.ndim == 2)
    slope, step = float(weight.grad[0, 0]), 1e-6
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[0, 0] += sign * step
            ends.append(float(loss()))
            weight[0, 0] -= sign * step
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5)


def test_what_is_encoded_again_is_told_the_device_that_dropout_is_drawn_on(dataset, monkeypatch):
    plain, told = gradient_cache.checkpoint, []

    def noted(encode, *given, **more):
        told.append({part.device for part in given if isinstance(part, torch.Tensor)})  # of all that PyTorch looks at
        return plain(encode, *given, **more)

    monkeypatch.setattr(gradient_cache, "checkpoint", noted)
    batch = EventRows(dataset, dataset.log, history_length=3, item_features=True).cut(torch.arange(18))
    GradientCached(objective_of("in-batch", dataset), 5)(built(dataset), batch)
    assert told == [{torch.device("cpu")}] * 8


@pytest.mark.parametrize("table", ["dense", "host"])
def test_a_training_in_parts_is_the_plain_one(table, dataset):
    config = Training(epochs=2, batch_size=9, learning_rate=0.01)
    ended = []
    for rows in (0, 4):
        model = built(dataset, table=table)
        objective = objective_of("in-batch", dataset)
        examples = EventRows(dataset, dataset.log, history_length=3, item_features=True)
        fit(model, examples, GradientCached(objective, rows) if rows else objective, config)
        ended.append(model.state_dict())
    for name, part in ended[0].items():
        torch.testing.assert_close(ended[1][name], part, rtol=1e-9, atol=1e-12)


def run_of(name: str, **settings):
    run = default_run(name)
    training = replace(run.training, epochs=1, batch_size=9, encode_rows=4, patience=0)
    return replace(run, model=ModelSection(name, run.model.settings | settings), training=training)


def test_a_run_file_asks_for_it_by_one_key(tiny_dataset, monkeypatch):
    seen = []
    monkeypatch.setattr("twotower.experiment.learn.GradientCached", lambda *given: seen.append(given[1]) or given[0])
    learn(run_of("two_tower"), tiny_dataset, leave_one_out(tiny_dataset.log))
    assert seen == [4]


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("name", "settings", "text"),
    [
        ("sasrec", {}, "model 'sasrec' reads its batch as a whole, so it cannot encode a batch in parts"),
        ("two_tower", {"batch_norm": True}, "normalises over its batch.*with model.batch_norm = false"),
    ],
)
def test_a_model_whose_rows_see_each_other_is_refused_before_it_is_trained(name, settings, text, tiny_dataset):
    with pytest.raises(InputError, match=text):
        learn(run_of(name, **settings), tiny_dataset, leave_one_out(tiny_dataset.log))


@pytest.mark.bad_input
def test_a_part_without_rows_is_refused(dataset):
    with pytest.raises(InputError, match="at least a row at a time, got 0"):
        GradientCached(objective_of("in-batch", dataset), 0)
    with pytest.raises(InputError, match="training.encode_rows must be at least 0"):
        Training(encode_rows=-1)
