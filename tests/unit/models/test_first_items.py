"""First item vectors of `two_tower` from co-occurrence: what they are, and what scores a model begins with."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from twotower.core.errors import InputError
from twotower.core.schema import Schema
from twotower.data.dataset import Dataset
from twotower.data.split import Split, Targets
from twotower.experiment.learn import learn, new_model
from twotower.experiment.run import ModelSection, Run
from twotower.models import first_items
from twotower.models.encode import inference, users_with_history
from twotower.models.first_items import cooccurrence_vectors
from twotower.models.registry import build_model
from twotower.ops import memory
from twotower.training.config import Training

PLAIN = {"dim": 8, "field_dim": 8, "hidden": [], "pooling": "mean", "init": "cooccurrence"}


def bare(dataset: Dataset) -> Dataset:
    """The log alone, without features, so that a tower reads nothing but ids."""
    return Dataset(Schema(dataset.schema.num_users, dataset.schema.num_items), dataset.log, {}, {}, {"name": "bare"})


def cosines(dataset: Dataset) -> torch.Tensor:
    """How often two items share a user, over the root of how many each has; in float64."""
    seen = torch.zeros(dataset.schema.num_users, dataset.schema.num_items, dtype=torch.float64)
    users = torch.arange(dataset.schema.num_users).repeat_interleave(dataset.log.offsets.diff())
    seen[users, dataset.log.items] = 1.0
    together = seen.T @ seen
    roots = together.diagonal().clamp(min=1.0).sqrt()
    return together / roots[:, None] / roots


@pytest.mark.parametrize("dim", [2, 4, 10, 16])
def test_the_vectors_are_the_leading_eigenvectors_of_the_cosines(tiny_dataset, dim):
    values, vectors = torch.linalg.eigh(cosines(tiny_dataset))
    values, vectors = values.flip(0)[:dim], vectors.flip(1)[:, :dim]
    wanted = vectors * (values - 1.0).clamp(min=0.0) @ vectors.T
    found = cooccurrence_vectors(tiny_dataset.log, tiny_dataset.schema.num_items, dim)
    assert found.shape == (10, dim)
    torch.testing.assert_close((found @ found.T).double(), wanted, rtol=1e-3, atol=1e-3)


def test_an_item_without_a_user_and_the_unknown_one_have_no_vector(tiny_dataset):
    log = tiny_dataset.log.select(tiny_dataset.log.items != 5)
    found = cooccurrence_vectors(log, tiny_dataset.schema.num_items, 4)
    assert not found[[0, 1, 5]].any()
    assert found[[2, 3, 4, 6, 7, 8, 9]].abs().sum(1).min() > 0


def test_a_model_begins_with_the_cosines_of_history_and_item(tiny_dataset):
    dataset = bare(tiny_dataset)
    model = build_model("two_tower", dataset.schema, PLAIN)
    drawn = model.item_table.weight[0:2].clone()
    model.start_from(dataset.log)
    vectors = F.normalize(cooccurrence_vectors(dataset.log, 10, 8)[2:], dim=1)
    with inference(model):
        users = users_with_history(dataset, dataset.log, torch.arange(2, 7), 50)
        found = model.score(model.encode_users(users), model.encode_items(dataset.items(torch.arange(2, 10))))
    pooled = torch.stack([model.item_table.weight[row[row > 0]].mean(0) for row in users.history])
    torch.testing.assert_close(found, F.normalize(pooled, dim=1) @ vectors.T, rtol=1e-4, atol=1e-5)
    assert model.item_table.weight[0:2].equal(drawn), "padding and the unknown item"


def test_without_the_setting_and_on_an_empty_log_weights_stay_as_they_were_drawn(tiny_dataset):
    for settings, log in (
        (PLAIN | {"init": "drawn"}, tiny_dataset.log),
        (PLAIN, tiny_dataset.log.select(tiny_dataset.log.items < 0)),
    ):
        model = build_model("two_tower", tiny_dataset.schema, settings)
        before = {name: weight.clone() for name, weight in model.state_dict().items()}
        model.start_from(log)
        assert all(weight.equal(before[name]) for name, weight in model.state_dict().items())


def test_auto_takes_what_the_log_says_where_towers_size_and_memory_allow_it(tiny_dataset, monkeypatch, caplog):
    def begins(changes: dict[str, object]) -> bool:
        model = build_model("two_tower", tiny_dataset.schema, PLAIN | {"init": "auto"} | changes)
        before = model.item_table.weight.clone()
        model.start_from(tiny_dataset.log)
        return not model.item_table.weight.equal(before)

    assert begins({})
    assert not begins({"hidden": [8]})
    assert not begins({"field_dim": 4})
    monkeypatch.setattr(memory, "available_memory", lambda: 10.0)
    with caplog.at_level("INFO"):
        assert not begins({})
    assert "first item embeddings are drawn: init = 'cooccurrence': 10 items" in caplog.text
    monkeypatch.undo()
    monkeypatch.setattr("twotower.models.two_tower.MOST_ITEMS", 9)
    assert not begins({})


def test_both_pooled_histories_and_features_find_their_columns(tiny_dataset):
    model = build_model("two_tower", tiny_dataset.schema, PLAIN | {"pooling": "both", "history_table": True})
    model.start_from(tiny_dataset.log)
    eye = torch.eye(8)
    (item,), (user,) = list(model.item_mlp), list(model.user_mlp)
    assert item.weight[:, -8:].equal(eye)
    assert not item.weight[:, :8].equal(eye)
    assert user.weight[:, :16].equal(torch.cat([eye / 2, eye / 2], dim=1))
    assert model.history_table.weight[2:].equal(model.item_table.weight[2:])


def test_training_begins_there_and_reads_the_training_events_alone(tiny_dataset, monkeypatch):
    dataset = bare(tiny_dataset)
    train = dataset.log.select(torch.arange(dataset.log.num_events) % 3 > 0)
    given = []
    whole = first_items.cooccurrence_vectors
    monkeypatch.setattr(
        "twotower.models.two_tower.cooccurrence_vectors", lambda log, *more: given.append(log) or whole(log, *more)
    )
    training = Training(epochs=1, batch_size=4, learning_rate=1e-9, evaluate_every=0, patience=0, geometry="off")
    run = Run(model=ModelSection("two_tower", PLAIN), training=training)
    nothing = dataset.log.select(dataset.log.items < 0)
    model, _ = learn(run, dataset, Split(train, Targets(nothing, nothing), Targets(nothing, nothing), train, ""))
    assert [log.items.tolist() for log in given] == [train.items.tolist()]
    started = new_model(run, dataset)
    started.start_from(train)
    torch.testing.assert_close(model.item_table.weight, started.item_table.weight, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden": [8]},
        {"field_dim": 4},
        {"item_id": False},
        {"history_length": 0, "user_id": True},
        {"batch_norm": True},
    ],
    ids=str,
)
def test_towers_that_cannot_begin_as_the_identity_are_refused(tiny_dataset, changes):
    with pytest.raises(InputError, match="init = 'cooccurrence' wants linear towers"):
        build_model("two_tower", tiny_dataset.schema, PLAIN | changes)


def test_a_start_that_is_not_known_is_refused(tiny_dataset):
    with pytest.raises(InputError, match="did you mean 'cooccurrence'"):
        build_model("two_tower", tiny_dataset.schema, PLAIN | {"init": "coocurrence"})


def test_a_catalogue_that_the_memory_does_not_hold_is_refused_before_it_starts(tiny_dataset, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 10.0)
    with pytest.raises(InputError, match=r"10 items with 8 numbers need .* set model\.init = 'drawn'"):
        cooccurrence_vectors(tiny_dataset.log, 10, 4)
