"""All-to-all self-attention's score against plain loops in float64, padding, tiles, and that it learns."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from twotower.core.errors import InputError
from twotower.core.records import Items, Users
from twotower.core.schema import Feature, Schema
from twotower.core.states import take
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.data.splitters import split_log
from twotower.evaluation.run import evaluate
from twotower.experiment.learn import learn
from twotower.experiment.recipes import all_to_all
from twotower.experiment.run import ModelSection, Run
from twotower.models.all_to_all import AllToAll
from twotower.models.registry import build_model
from twotower.training.config import Sampling
from twotower.training.sources import NegativeSource

ITEMS = 23
KINDS = torch.tensor([0, 1, *(2 + item % 3 for item in range(ITEMS))])
SCHEMA = Schema(
    60,
    ITEMS + 2,
    user_features=(Feature("group", "categorical", size=6),),
    item_features=(Feature("kind", "categorical", size=5),),
)
IDS = torch.arange(2, ITEMS + 2)
CATALOGUE = Items(IDS, {"kind": KINDS[IDS]})


def users_of(rows: int = 5, length: int = 7) -> Users:
    """The first history is short, the second empty, the others longer than what is read."""
    history = torch.randint(2, ITEMS + 2, (rows, length), generator=torch.Generator().manual_seed(3))
    history[0, 2:] = 0
    history[1:2] = 0
    return Users(torch.arange(rows) + 2, {"group": torch.arange(rows) % 4 + 2}, history)


def model_of(schema: Schema = SCHEMA, **settings) -> AllToAll:
    torch.manual_seed(5)
    model = build_model("all_to_all", schema, {"dim": 6, "history_length": 5} | settings)
    assert isinstance(model, AllToAll)
    with torch.no_grad():
        for part in model.parameters():  # norms and biases begin where a mistake would not be seen
            part.add_(0.3 * torch.randn(part.shape))
    return model.eval().double()


def normed(x: np.ndarray, weights: dict[str, np.ndarray], name: str) -> np.ndarray:
    centred = x - x.mean()
    return weights[f"{name}.weight"] * centred / math.sqrt((centred**2).mean() + 1e-5) + weights[f"{name}.bias"]


def linear(x: np.ndarray, weights: dict[str, np.ndarray], name: str) -> np.ndarray:
    return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]


def gelu(x: np.ndarray) -> np.ndarray:
    return np.array([one * 0.5 * (1.0 + math.erf(one / math.sqrt(2.0))) for one in x])


def block(tokens: list[np.ndarray], weights: dict[str, np.ndarray], name: str, heads: int) -> list[np.ndarray]:
    """One block, place by place and head by head: every token attends to every token."""
    dim = len(tokens[0])
    wide = dim // heads
    split = [linear(normed(x, weights, f"{name}.attention_norm"), weights, f"{name}.project_in") for x in tokens]
    after = []
    for x, own in zip(tokens, split, strict=True):
        found = np.zeros(dim)
        for head in range(heads):
            at = slice(head * wide, (head + 1) * wide)
            exps = [math.exp(own[:dim][at] @ other[dim : 2 * dim][at] / math.sqrt(wide)) for other in split]
            for exp, other in zip(exps, split, strict=True):
                found[at] += exp / sum(exps) * other[2 * dim :][at]
        x = x + linear(found, weights, f"{name}.project_out")
        inner = linear(normed(x, weights, f"{name}.feed_forward_norm"), weights, f"{name}.feed_forward.0")
        after.append(x + linear(gelu(inner), weights, f"{name}.feed_forward.2"))
    return after


def slow_score(model: AllToAll, group: int | None, history: list[int], item: int) -> float:
    """One user and one item, from the weights alone: tokens, blocks, the mean of the item's, a linear map."""
    weights = {name: part.detach().numpy() for name, part in model.state_dict().items()}
    latest = [one for one in history if one][::-1][: model.history_length]
    fields = [] if group is None else [weights[next(k for k in weights if k.startswith("first."))][group]]
    places = weights["user_places"]
    tokens = [field + places[place] for place, field in enumerate(fields)]
    tokens += [weights["item_table.weight"][one] + places[len(fields) + age] for age, one in enumerate(latest)]
    vector = weights[next(k for k in weights if k.startswith("item_fields."))][int(KINDS[item])]
    if model.item_id:
        vector = vector + weights["item_table.weight"][item]
    number = len(weights["item_places"])
    own = [vector] if number == 1 else np.split(linear(vector, weights, "item_heads.linear"), number)
    tokens = [token + place for token, place in zip(own, weights["item_places"], strict=True)] + tokens
    for layer, part in enumerate(model.encoder.blocks):
        tokens = block(tokens, weights, f"encoder.blocks.{layer}", part.heads)
    states = [normed(token, weights, "encoder.norm") for token in tokens[:number]]
    return float(linear(sum(states) / number, weights, "encoder.readout")[0])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"layers": 1},
        {"layers": 3, "heads": 3},
        {"item_tokens": 3, "user_features": True},
        {"layers": 1, "item_tokens": 2, "heads": 1},
        {"layers": 4, "item_tokens": 2, "item_id": False, "user_features": True},
    ],
    ids=lambda settings: " ".join(f"{key}={value}" for key, value in settings.items()) or "as it is",
)
def test_a_score_is_that_of_every_token_attending_to_every_token(settings):
    model, users = model_of(**settings), users_of()
    with torch.no_grad():
        states, items = model.encode_users(users), model.encode_items(CATALOGUE)
        scores = model.score(states, items)
    groups = users.features["group"].tolist() if settings.get("user_features") else [None] * 5
    expected = [
        [slow_score(model, group, row, item) for item in IDS.tolist()]
        for group, row in zip(groups, users.history.tolist(), strict=True)
    ]
    torch.testing.assert_close(scores, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_rows_of_items_shared_items_and_training_give_one_score(layers):
    model, users = model_of(layers=layers, item_tokens=2, dropout=0.0), users_of()
    with torch.no_grad():
        states, items = model.encode_users(users), model.encode_items(CATALOGUE)
        scores = model.score(states, items)
        torch.testing.assert_close(model.score_rows(states, items[:5]), scores[:, :5].diagonal())
        torch.testing.assert_close(model.score_rows(states, items.expand(5, -1, -1, -1)), scores)
        torch.testing.assert_close(model.train().score(states, items), scores)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_padding_and_other_users_of_a_batch_have_no_effect(layers):
    model, users = model_of(layers=layers, item_tokens=2), users_of()
    wide = users._replace(history=torch.nn.functional.pad(users.history, (0, 4)))
    with torch.no_grad():
        items = model.encode_items(CATALOGUE)
        scores = model.score(model.encode_users(users), items)
        torch.testing.assert_close(model.score(model.encode_users(wide), items), scores)
        narrow = users._replace(history=users.history[:2, :2], ids=users.ids[:2])
        torch.testing.assert_close(model.score(model.encode_users(narrow), items), scores[:2])
        none = users._replace(history=users.history[1:2, :0], ids=users.ids[1:2])
        torch.testing.assert_close(model.score(model.encode_users(none), items), scores[1:2])
        states = model.encode_users(users)
        states.vectors[~states.present] = 1e3
        torch.testing.assert_close(model.score(states, items), scores)


def test_users_without_any_event_have_finite_scores_and_gradients():
    model = model_of(layers=2)
    users = users_of()._replace(history=torch.zeros(5, 7, dtype=torch.int64))
    scores = model.train().score(model.encode_users(users), model.encode_items(CATALOGUE))
    scores.sum().backward()
    assert scores.isfinite().all()
    assert all(part.grad is None or part.grad.isfinite().all() for part in model.parameters())
    assert scores.detach().std(dim=0).max() < 1.0, "only dropout tells such users apart"


@pytest.mark.parametrize("pairs", [1, 3, 23, 50])
def test_tiles_of_any_size_give_the_same(pairs):
    model, users = model_of(item_tokens=2, layers=3), users_of()
    with torch.no_grad():
        states, items = model.encode_users(users), model.encode_items(CATALOGUE)
        scores = model.score(states, items)
        assert model.pairs > scores.numel(), "one tile, to begin with"
        model.pairs = pairs
        torch.testing.assert_close(model.score(states, items), scores)
        torch.testing.assert_close(model.score(take(states, slice(2, 3)), items[4:7]), scores[2:3, 4:7])
        torch.testing.assert_close(model.score_rows(states, items[:5]), scores[:, :5].diagonal())
        own = torch.arange(5 * 9).view(5, 9) % ITEMS
        torch.testing.assert_close(model.score_rows(states, items[own]), scores.gather(1, own))


def test_a_tile_holds_about_as_many_numbers_as_are_meant():
    short, long = model_of(dim=8, history_length=5), model_of(dim=8, history_length=50)
    assert 4 < short.pairs / long.pairs < 11


def test_only_the_latest_items_count_and_their_order_does():
    model, users = model_of(), users_of(rows=3)
    with torch.no_grad():
        items = model.encode_items(CATALOGUE)
        scores = model.score(model.encode_users(users), items)[2]
        earlier = users.history.clone()
        earlier[2, :2] = earlier[2, :2] % ITEMS + 2
        swapped = users.history.clone()
        swapped[2, -2:] = torch.tensor([4, 9])
        users = users._replace(history=earlier)
        torch.testing.assert_close(model.score(model.encode_users(users), items)[2], scores)
        one = model.score(model.encode_users(users._replace(history=swapped)), items)[2]
        other = model.score(model.encode_users(users._replace(history=swapped[:, [0, 1, 2, 3, 4, 6, 5]])), items)[2]
        assert (one - other).abs().max() > 1e-3


def shelves(users: int = 300, groups: int = 4, size: int = 20) -> Dataset:
    """Users take eight items of one shelf, in any order.

    No item is more popular than others, and no item follows from a user alone: the score has to compare both sides.
    """
    draw = torch.Generator().manual_seed(2)
    histories = [2 + user % groups * size + torch.randperm(size, generator=draw)[:8] for user in range(users)]
    offsets = torch.tensor([0, 0, 0, *(8 * (user + 1) for user in range(users))])
    schema = Schema(users + 2, groups * size + 2, has_times=False)
    return Dataset(schema, Log(offsets, torch.cat(histories)), {}, {}, {"name": "shelves"})


@pytest.mark.slow
def test_it_learns_that_the_next_item_is_on_the_shelf_of_the_others():
    dataset = shelves()
    split = split_log(dataset.log, "leave-one-out")
    settings = ["training.batch_size=32", "training.epochs=5", "training.learning_rate=0.01"]
    run = replace(
        all_to_all().with_settings(settings),
        model=ModelSection("all_to_all", {"dim": 16, "history_length": 6, "dropout": 0.0}),
        sampling=Sampling((NegativeSource("uniform", {"number": 20}),)),
    )
    model, records = learn(run, dataset, split)
    popular, _ = learn(Run(model=ModelSection("popularity")), dataset, split)
    found, chance = (evaluate(one, dataset, split.test).metrics["recall@10"] for one in (model, popular))
    assert records[-1].loss < records[0].loss - 0.8
    assert found > 2.5 * chance


def test_its_recipe_trains_it_and_is_answered_by_scoring_everything():
    dataset = shelves(users=40)
    split = split_log(dataset.log, "leave-one-out")
    run = all_to_all().with_settings(["training.epochs=1"])
    model, records = learn(run, dataset, split)
    assert isinstance(model, AllToAll)
    assert len(records) == 1
    assert run.index.kind == Run().index.kind
    assert 0.0 <= evaluate(model, dataset, split.test).metrics["recall@10"] <= 1.0


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": 0}, "layers must be at least 1"),
        ({"item_tokens": 0, "history_length": 0}, "item_tokens and history_length must be at least 1"),
        ({"dim": 6, "heads": 4}, "heads must divide dim, got 4 heads for dim 6"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\)"),
        ({"item_id": False}, "item_id = false leaves nothing of an item"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        build_model("all_to_all", Schema(9, 12), settings)
