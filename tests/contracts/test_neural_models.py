"""What every model that is trained by gradients keeps to; a model named in `MODELS` is a member by its line there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_model, save_model
from torch import Tensor

from twotower.core import states
from twotower.core.records import Batch, Items, Users
from twotower.data.dataset import Dataset
from twotower.models.base import ClosedForm, Model, attach_items
from twotower.models.encode import inference, users_with_history
from twotower.models.registry import MODELS, build_model, model_class
from twotower.models.two_tower import TwoTower

SETTINGS: dict[str, dict[str, Any]] = {"fit": {"meta_queries": 4}, "sparcode": {"codebook": 4}}
"""Smaller settings of a member, where its defaults are too large for a test."""
NAMES = [name for name in MODELS if not issubclass(model_class(name), ClosedForm)]


def made(name: str, dataset: Dataset) -> Model:
    """A new model with one seed, in evaluation mode."""
    torch.manual_seed(7)
    model = build_model(name, dataset.schema, SETTINGS.get(name))
    with torch.no_grad():
        attach_items(model, dataset.all_items())
    return model.eval()


def users_of(model: Model, dataset: Dataset, ids: Tensor) -> Any:
    return model.encode_users(users_with_history(dataset, dataset.log, ids, model.history_length))


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(name: str, tiny_dataset: Dataset) -> Model:
    return made(name, tiny_dataset)


ASKED = torch.arange(2, 7)


class TestNeuralModel:
    """One class for all."""

    def test_has_something_to_train(self, model):
        assert isinstance(model, Model)
        assert any(parameter.requires_grad for parameter in model.parameters())
        assert model.batches in ("events", "sequences")

    def test_scores_every_user_with_every_item_in_finite_numbers(self, model, tiny_dataset):
        with inference(model):
            scores = model.score(users_of(model, tiny_dataset, ASKED), model.encode_items(tiny_dataset.all_items()))
        assert scores.shape == (5, tiny_dataset.schema.num_items)
        assert scores[:, 2:].isfinite().all()

    def test_a_user_and_an_item_score_alone_as_among_others(self, model, tiny_dataset):
        chosen = torch.tensor([3, 9, 2, 7])
        with inference(model):
            items = model.encode_items(tiny_dataset.items(chosen))
            together = model.score(users_of(model, tiny_dataset, ASKED), items)
            for row, user in enumerate(ASKED):
                alone = model.score(users_of(model, tiny_dataset, user[None]), states.take(items, slice(1, 2)))
                torch.testing.assert_close(alone[0, 0], together[row, 1], rtol=1e-4, atol=1e-5)

    def test_pairs_agree_with_the_table(self, model, tiny_dataset):
        items = torch.tensor([4, 3, 9, 2, 8])
        with inference(model):
            users, encoded = users_of(model, tiny_dataset, ASKED), model.encode_items(tiny_dataset.items(items))
            torch.testing.assert_close(
                model.score_rows(users, encoded), model.score(users, encoded).diagonal(), rtol=1e-4, atol=1e-5
            )

    def test_says_truly_whether_a_user_and_an_item_are_one_vector(self, model, tiny_dataset):
        with inference(model):
            pair = users_of(model, tiny_dataset, ASKED), model.encode_items(tiny_dataset.all_items())
        plain = all(isinstance(part, Tensor) and part.ndim == 2 for part in pair)
        assert not model.has_vectors or plain
        assert not model.inner_product or model.has_vectors

    def test_says_truly_whether_its_score_is_an_inner_product(self, model, tiny_dataset):
        if not model.inner_product:
            return
        with inference(model):
            users, items = users_of(model, tiny_dataset, ASKED), model.encode_items(tiny_dataset.all_items())
            torch.testing.assert_close(model.score(users, items), users @ items.T, rtol=1e-4, atol=1e-5)

    def test_training_reaches_its_parameters_with_finite_gradients(self, model, tiny_dataset):
        if model.batches == "sequences":
            pytest.skip("sequence encoders have a contract of their own")
        model.train()
        items = torch.tensor([4, 3, 9, 2, 8])
        users = users_with_history(tiny_dataset, tiny_dataset.log, ASKED, model.history_length)
        encoded = model(Batch(users, Items(items, tiny_dataset.items(items).features)))
        model.score_rows(encoded.users, encoded.items).square().sum().backward()
        gradients = [part.grad for part in model.parameters() if part.grad is not None]
        assert gradients
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert any(gradient.ne(0.0).any() for gradient in gradients)

    def test_stored_weights_are_all_there_is(self, name, model, tiny_dataset, tmp_path):
        save_model(model, str(tmp_path / "weights.safetensors"))
        torch.manual_seed(8)
        again = build_model(name, tiny_dataset.schema, SETTINGS.get(name)).eval()
        load_model(again, tmp_path / "weights.safetensors")
        found = []
        for one in (model, again):
            with inference(one):
                users, items = users_of(one, tiny_dataset, ASKED), one.encode_items(tiny_dataset.all_items())
                found.append(one.score(users, items)[:, 2:])
        torch.testing.assert_close(*found, rtol=0.0, atol=0.0)

    def test_states_survive_their_store(self, model, tiny_dataset):
        with inference(model):
            items = model.encode_items(tiny_dataset.all_items())
        kept = states.from_tensors(states.to_tensors(items), model.item_store.kind)
        for one, other in zip(states.to_tensors(items).values(), states.to_tensors(kept).values(), strict=True):
            assert one.equal(other)


class Distant(TwoTower):
    """Scores by distance and does not say so."""

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        return -torch.cdist(users, items)


class Leaky(TwoTower):
    """Scores a user with the help of those who ask beside it."""

    def encode_users(self, users: Users) -> Tensor:
        found = super().encode_users(users)
        return found - found.mean(0)


def test_the_contract_refuses_models_that_do_not_keep_to_it(tiny_dataset):
    """Faults planted in models of the test's own are seen."""
    distant, leaky = (cls(tiny_dataset.schema).eval() for cls in (Distant, Leaky))
    with pytest.raises(AssertionError):
        TestNeuralModel().test_says_truly_whether_its_score_is_an_inner_product(distant, tiny_dataset)
    with pytest.raises(AssertionError):
        TestNeuralModel().test_pairs_agree_with_the_table(distant, tiny_dataset)
    with pytest.raises(AssertionError):
        TestNeuralModel().test_a_user_and_an_item_score_alone_as_among_others(leaky, tiny_dataset)
