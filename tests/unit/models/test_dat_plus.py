"""DAT+: networks over a history's state and augmented vectors, which learn what the other tower answers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import UNKNOWN, Batch, Items, Users
from twotower.core.schema import Schema
from twotower.models.dat_plus import DATPlus
from twotower.models.registry import build_model
from twotower.training.objective import own_losses

SMALL = {"dim": 4, "hidden": [5], "history_length": 4, "dropout": 0.0, "user_dropout": 0.0}
Vector = list[float]


def made(**settings: object) -> DATPlus:
    """A small model in float64 with no weight at a value where it would do nothing."""
    torch.manual_seed(3)
    model = build_model("dat_plus", Schema(6, 12), SMALL | settings).double().eval()
    assert isinstance(model, DATPlus)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn_like(weight)
    return model


@pytest.fixture(params=["mean", "causal"])
def model(request: pytest.FixtureRequest) -> DATPlus:
    return made(encoder=request.param)


@pytest.fixture
def batch() -> Batch:
    history = torch.tensor([[3, 4, 5, 6], [6, 7, 0, 0], [2, 0, 0, 0]])
    targets = torch.tensor([[4, 5, 6, 7], [7, 8, 0, 0], [9, 0, 0, 0]])
    return Batch(Users(torch.tensor([2, 3, 4]), {}, history), Items(targets))


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


def network(layers: torch.nn.Module, x: Vector) -> Vector:
    """Two linear layers with a ReLU between, at length 1."""
    for place, name in enumerate(("0", "2")):
        weights, bias = (layers.get_parameter(f"{name}.{part}").tolist() for part in ("weight", "bias"))
        x = [sum(w * n for w, n in zip(row, x, strict=True)) + b for row, b in zip(weights, bias, strict=True)]
        x = x if place else [max(0.0, n) for n in x]
    length = math.sqrt(sum(n * n for n in x))
    return [n / length for n in x]


def test_states_items_and_mimic_loss_are_those_of_the_formulas(batch):
    model = made(mimic_weight=0.5).train()
    table, of_users, of_items = (
        part.weight.tolist() for part in (model.item_table, model.user_augmented, model.item_augmented)
    )
    items = [network(model.item_network, [2 * n for n in row] + own) for row, own in zip(table, of_items, strict=True)]
    found, losses, errors = model(batch), [], []
    row = 0
    for user, history, targets in zip((2, 3, 4), batch.users.history.tolist(), batch.items.ids.tolist(), strict=True):
        for place, target in enumerate(targets):
            if not target:
                continue
            seen = [table[item] for item in history[: place + 1]]
            mean = [2 * sum(parts) / len(seen) for parts in zip(*seen, strict=True)]
            state = network(model.user_network, mean + of_users[user])
            close(found.users[row], torch.tensor(state, dtype=torch.float64))
            losses += [(a - b) ** 2 for a, b in zip(of_users[user], items[target], strict=True)]
            errors += [(a - b) ** 2 for a, b in zip(of_items[target], state, strict=True)]
            row += 1
    assert found.item_ids.tolist() == [4, 5, 6, 7, 7, 8, 9]
    assert own_losses(found).item() == pytest.approx(0.5 * (sum(losses) + sum(errors)) / row)
    close(model.encode_items(Items(torch.arange(12))), torch.tensor(items, dtype=torch.float64))


def test_the_mimic_loss_moves_the_augmented_vectors_alone(model, batch):
    model.train()
    own_losses(model(batch)).backward()
    moved = {name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert moved == {"user_augmented.weight", "item_augmented.weight"}


def test_a_state_knows_no_later_event_and_no_neighbour(model, batch):
    other = Batch(batch.users._replace(history=batch.users.history.clone()), batch.items)
    other.users.history[0, 2:] = torch.tensor([9, 2])
    other.users.history[1] = torch.tensor([3, 5, 0, 0])
    before, after = model(batch).users, model(other).users
    close(after[:2], before[:2])
    close(after[6], before[6])
    assert not torch.isclose(after[2:6], before[2:6]).all(1).any()


def test_asking_gives_the_state_of_training_alone_and_in_any_width(model, batch):
    states = model(batch).users
    together = model.encode_users(batch.users)
    close(together, states[[3, 5, 6]])
    alone = Users(batch.users.ids[1:2], {}, batch.users.history[1:2, :2])
    close(model.encode_users(alone), together[1:2])
    empty = Users(torch.tensor([2]), {}, torch.zeros(1, 1, dtype=torch.int64))
    assert not model.encode_users(empty).any()


def test_a_user_counts_and_one_who_is_not_known_is_read_as_the_unknown_one(model, batch):
    nobody = batch.users._replace(ids=torch.full((3,), UNKNOWN))
    assert not torch.isclose(model.encode_users(batch.users), model.encode_users(nobody)).all(1).any()
    close(model.positions(batch.users.history)[0, 3], model.encode_users(nobody)[0])
    model.train()
    model.user_dropout = 0.5
    many = Batch(
        Users(torch.full((200,), 2), {}, torch.full((200, 1), 3)),
        Items(torch.full((200, 1), 4)),
    )
    model.dropout = 0.0
    for block in getattr(model.tower, "blocks", []):
        block.dropout = 0.0
    states = {tuple(row) for row in model(many).users.detach().round(decimals=6).tolist()}
    assert len(states) == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"encoder": "max"}, "encoder must be one of mean, causal, got 'max'"),
        ({"mimic_weight": -1.0}, "mimic_weight must be finite and at least 0"),
        ({"user_dropout": 1.0}, "user_dropout must be in"),
        ({"encoder": "causal", "heads": 3}, "heads must divide dim"),
        ({"score": "mlp"}, "score must be dot or cosine"),
    ],
)
def test_settings_of_no_use_are_refused_in_one_line(wrong, message):
    with pytest.raises(InputError, match=message) as refused:
        build_model("dat_plus", Schema(6, 12), wrong)
    assert "\n" not in str(refused.value)
