"""Cold-start models: losses, factors and local steps against slow references, and a log in which features decide."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import Batch, Items, Users
from twotower.core.schema import Feature, Schema
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.evaluation.protocol import Protocol
from twotower.evaluation.run import evaluate
from twotower.experiment.catalogue import split_of
from twotower.experiment.learn import learn
from twotower.experiment.recipes import default_run
from twotower.experiment.run import Data, Run
from twotower.models.base import Model, attach_items
from twotower.models.baselines.cluster_popularity import ClusterPopularity
from twotower.models.cold import factors as factoring
from twotower.models.cold.deezernet import DeezerNet, factor_distance
from twotower.models.cold.dropoutnet import DropoutNet, score_distance
from twotower.models.cold.factors import factorise
from twotower.models.cold.melu import MeLU, layers_of, local_gradient
from twotower.models.encode import inference, users_with_history
from twotower.models.registry import build_model
from twotower.training.config import Sampling, Training
from twotower.training.sources import NegativeSource


def made_log(users: int = 30, items: int = 20) -> Log:
    draw = torch.Generator().manual_seed(3)
    lengths = torch.cat([torch.zeros(2, dtype=torch.int64), torch.randint(0, 9, (users,), generator=draw)])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    return Log(offsets, torch.randint(2, items + 2, (int(offsets[-1]),), generator=draw))


def of_loop(log: Log, items: Tensor, others: int, *, confidence: float, regularisation: float) -> Tensor:
    """Each user's vector by the normal equations over every item, seen or not."""
    found = torch.zeros(len(log.lengths), items.shape[1], dtype=torch.float64)
    for user, (start, end) in enumerate(itertools.pairwise(log.offsets.tolist())):
        seen = set(log.items[start:end].tolist())
        matrix = regularisation * torch.eye(items.shape[1], dtype=torch.float64)
        target = torch.zeros(items.shape[1], dtype=torch.float64)
        for item in range(others):
            weight = 1.0 + confidence * (item in seen)
            matrix += weight * torch.outer(items[item], items[item])
            target += weight * (item in seen) * items[item]
        if seen:
            found[user] = torch.linalg.solve(matrix, target)
    return found


@pytest.mark.parametrize("block", [1 << 22, 200])
def test_each_half_of_a_round_is_the_exact_least_squares_solution(block, monkeypatch):
    monkeypatch.setattr(factoring, "BLOCK", block)
    log, settings = made_log(), {"confidence": 7.0, "regularisation": 0.5}
    found = factorise(log, 22, 4, rounds=3, dtype=torch.float64, **settings)
    turned = [(int(item), int(user)) for user, item in zip(log.users(), log.items, strict=True)]
    turned.sort()
    counts = torch.bincount(torch.tensor([item for item, _ in turned]), minlength=22)
    by_item = Log(torch.cat([counts.new_zeros(1), counts.cumsum(0)]), torch.tensor([user for _, user in turned]))
    torch.testing.assert_close(found.items, of_loop(by_item, found.users, len(log.lengths), **settings))
    more = factorise(log, 22, 4, rounds=4, dtype=torch.float64, **settings)
    torch.testing.assert_close(more.users, of_loop(log, found.items, 22, **settings))


def test_the_objective_of_the_factorisation_falls_and_what_was_taken_scores_higher():
    log = made_log(60, 30)
    p = torch.zeros(len(log.lengths), 32, dtype=torch.float64)
    p[log.users(), log.items] = 1.0

    def loss(rounds: int) -> float:
        users, items = factorise(log, 32, 6, confidence=9.0, regularisation=0.3, rounds=rounds, dtype=torch.float64)
        wrong = ((1.0 + 9.0 * p) * (p - users @ items.T).square()).sum()
        return float(wrong + 0.3 * (users.square().sum() + items.square().sum()))

    losses = [loss(rounds) for rounds in (1, 2, 4, 8)]
    assert losses == sorted(losses, reverse=True)
    found = factorise(log, 32, 6)
    scores = (found.users @ found.items.T).double()
    assert scores[p > 0].mean() > 2.0 * scores[(p == 0)].mean()
    assert not found.users[log.lengths == 0].any()


def test_dropoutnets_loss_is_the_mean_squared_difference_of_scores_over_all_pairs():
    draw = torch.Generator().manual_seed(1)
    users, items, u, v = (torch.randn(5, 3, dtype=torch.float64, generator=draw) for _ in range(4))
    known = torch.tensor([True, False, True, True, False])
    wanted = [
        (sum(users[a][k] * items[b][k] for k in range(3)) - sum(u[a][k] * v[b][k] for k in range(3))) ** 2
        for a in (0, 2, 3)
        for b in range(5)
    ]
    assert float(score_distance(users, items, u, v, known=known)) == pytest.approx(float(sum(wanted)) / len(wanted))
    assert float(score_distance(u, v, u, v, known=known)) == 0.0


def test_deezernets_loss_weighs_users_alike_and_compares_directions():
    draw = torch.Generator().manual_seed(2)
    predicted, factors = (torch.randn(4, 3, dtype=torch.float64, generator=draw) for _ in range(2))
    weights = torch.tensor([0.5, 0.0, 0.25, 1.0], dtype=torch.float64)
    total = 0.0
    for row in range(4):
        length = math.sqrt(sum(float(x) ** 2 for x in factors[row]))
        each = [(float(predicted[row][k]) - float(factors[row][k]) / length) ** 2 for k in range(3)]
        total += float(weights[row]) * sum(each) / 3
    assert float(factor_distance(predicted, factors, weights)) == pytest.approx(total / 1.75)


SHAPES = [(6, 5), (5, 4), (4, 1)]


def slow_loss(flat: Tensor, inputs: Tensor, support: Tensor, apart: Tensor) -> Tensor:
    """L_u of one row, by plain code."""
    hidden, at = inputs, 0
    for place, (wide, narrow) in enumerate(SHAPES):
        matrix = flat[at : at + wide * narrow].view(narrow, wide)
        offset = flat[at + wide * narrow : at + wide * narrow + narrow]
        at += wide * narrow + narrow
        hidden = hidden @ matrix.T + offset
        if place < 2:
            hidden = hidden.clamp(min=0.0)
    scores = hidden[:, 0]
    places = len(support)
    against = scores[places:][apart]
    terms = [-torch.log(scores[j].exp() / (scores[j].exp() + against.exp().sum())) for j in range(places) if support[j]]
    return torch.stack(terms).mean()


def test_the_local_gradient_is_that_of_autograd_and_so_is_its_derivative():
    draw = torch.Generator().manual_seed(4)
    size = sum(wide * narrow + narrow for wide, narrow in SHAPES)
    start = torch.randn(size, dtype=torch.float64, generator=draw)
    inputs = torch.randn(3, 4 + 5, 6, dtype=torch.float64, generator=draw)
    support = torch.tensor([[True, True, False, True], [True, False, False, False], [False] * 4])
    apart = torch.tensor([[True, True, False, True, True], [True] * 5, [True] * 5])
    theta = start.clone().requires_grad_()
    found = local_gradient(theta.expand(3, -1), SHAPES, inputs, support, apart)
    assert not found[2].any(), "no event, no step"
    for row in range(2):
        other = start.clone().requires_grad_()
        loss = slow_loss(other, inputs[row], support[row], apart[row])
        (slow,) = torch.autograd.grad(loss, other, create_graph=True)
        torch.testing.assert_close(found[row], slow)
        direction = torch.randn(size, dtype=torch.float64, generator=draw)
        (second,) = torch.autograd.grad(found[row] @ direction, theta, retain_graph=True)
        (wanted,) = torch.autograd.grad(slow @ direction, other)
        torch.testing.assert_close(second, wanted)


def test_melu_scores_by_the_layers_it_names(tiny_dataset):
    model = build_model("melu", tiny_dataset.schema, {"dim": 3, "hidden": [5, 4], "anchors": 4}).double().eval()
    assert isinstance(model, MeLU)
    data = doubled(tiny_dataset)
    attach_items(model, data.all_items())
    with torch.no_grad():
        users = model.encode_users(users_with_history(data, data.log, torch.arange(2, 7), 10))
        items = model.encode_items(data.items(torch.arange(2, 10)))
        scores = model.score(users, items)
        for user in range(5):
            for item in range(8):
                hidden = torch.cat([users.vectors[user], items[item]])
                layers = layers_of(users.weights[user][None], model.shapes)
                for place, (matrix, offset) in enumerate(layers):
                    hidden = matrix[0] @ hidden + offset[0]
                    hidden = hidden.clamp(min=0.0) if place < len(layers) - 1 else hidden
                assert float(scores[user, item]) == pytest.approx(float(hidden))


def doubled(data: Dataset) -> Dataset:
    def wide(columns: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: part.double() if part.is_floating_point() else part for name, part in columns.items()}

    return replace(data, user_features=wide(data.user_features), item_features=wide(data.item_features))


def test_melu_takes_its_step_from_the_history_and_none_without_one(tiny_dataset):
    model = build_model("melu", tiny_dataset.schema, {"hidden": [8]}).eval()
    assert isinstance(model, MeLU)
    attach_items(model, tiny_dataset.all_items())
    ids = torch.tensor([2, 2])
    with inference(model):
        users = tiny_dataset.users(ids, torch.tensor([[4, 5, 0], [0, 0, 0]]))
        weights = model.encode_users(users).weights
        assert not weights[0].equal(model.decision)
        assert weights[1].equal(model.decision)
        # The step raises what it was taken on, beside the anchors.
        items = model.encode_items(tiny_dataset.items(torch.tensor([4, 5])))
        rest = model.encode_items(tiny_dataset.items(model.anchors))
        state = model.encode_users(users)
        gap = model.score(state, items).mean(1) - model.score(state, rest).mean(1)
        assert gap[0] > gap[1]


SETTINGS: dict[str, dict[str, Any]] = {
    "two_tower": {"history_length": 0},
    "sparcode_twin": {"dim": 16, "layers": 1, "user_features": True, "history_length": 1},
    "sparcode": {"dim": 16, "layers": 1, "user_features": True, "history_length": 1, "codebook": 8},
    "dropoutnet": {"factor_dim": 16},
    "deezernet": {"factor_dim": 16, "hidden": [32]},
    "melu": {"dim": 8, "field_dim": 8, "hidden": [16], "anchors": 6, "history_length": 3},
    "cluster_popularity": {"clusters": 42, "smoothing": 5.0},
}


@pytest.fixture(scope="module")
def planted() -> Dataset:
    """Six kinds of users, told by a feature; four in five events are with the ten items of the own kind."""
    draw = torch.Generator().manual_seed(6)
    users, kinds, each = 360, 6, 10
    kind = torch.randint(kinds, (users,), generator=draw)
    own = torch.rand(users, 8, generator=draw) < 0.8
    drawn = torch.randint(each, (users, 8), generator=draw)
    any_kind = torch.randint(kinds, (users, 8), generator=draw)
    items = 2 + each * torch.where(own, kind[:, None], any_kind) + drawn
    offsets = torch.cat([torch.zeros(3, dtype=torch.int64), 8 * torch.arange(1, users + 1)])
    schema = Schema(
        num_users=users + 2,
        num_items=kinds * each + 2,
        user_features=(Feature("kind", "categorical", kinds + 2), Feature("noise", "categorical", 9)),
    )
    two = torch.zeros(2, dtype=torch.int64)
    columns = {
        "kind": torch.cat([two, 2 + kind]),
        "noise": torch.cat([two, torch.randint(2, 9, (users,), generator=draw)]),
    }
    return Dataset(schema, Log(offsets, items.flatten()), columns, {}, {"name": "planted"})


def cold_run(name: str, settings: dict[str, Any]) -> Run:
    run = default_run(name)
    more = {} if name in ("deezernet", "dropoutnet") else {"number": 32}
    sources = Sampling((NegativeSource("uniform", more or {"number": 1}),))
    return replace(
        run,
        data=Data(split="cold-users", split_options={"ratio": [7, 1, 2], "seed": 1}),
        model=replace(run.model, settings=settings),
        objective=replace(run.objective, loss="sampled_softmax"),
        sampling=sources,
        training=Training(epochs=12, batch_size=128, learning_rate=1e-2, metric="recall@10", evaluate_every=4),
    )


def recall(name: str, data: Dataset, settings: dict[str, Any]) -> float:
    run = cold_run(name, settings)
    split = split_of(run, data)
    model, _ = learn(run, data, split)
    return evaluate(model, data, split.test, Protocol(ks=(10,))).metrics["recall@10"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SETTINGS, "dropoutnet events", "deezernet clusters"])
def test_where_features_decide_every_model_serves_new_users_by_them(name, planted):
    name, _, form = name.partition(" ")
    more = {"target": form} if name == "dropoutnet" and form else {"answer": form} if form else {}
    popular = recall("popularity", planted, {})
    assert popular < 0.3
    assert recall(name, planted, SETTINGS[name] | more) > 0.6


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deezernet", "dropoutnet"])
def test_without_a_loss_of_factors_nothing_would_be_learnt(name, planted, monkeypatch):
    """Plants the fault: the own loss is lost, and the objective moves nothing."""
    for module in ("dropoutnet.score_distance", "deezernet.factor_distance"):
        monkeypatch.setattr(f"twotower.models.cold.{module}", lambda users, *_, **__: 0.0 * users.sum())
    assert recall(name, planted, SETTINGS[name]) < 0.5


def test_a_preference_is_dropped_in_training_alone(planted):
    torch.manual_seed(0)
    model = build_model("dropoutnet", planted.schema, {"user_dropout": 1.0, "item_dropout": 1.0})
    assert isinstance(model, DropoutNet)
    users = planted.users(torch.tensor([5, 5]), torch.tensor([[4, 9], [0, 0]]))
    items = planted.items(torch.tensor([7, 8]))
    model.train()
    with torch.no_grad():
        states = model.encode_users(users)
        assert states[0].equal(states[1])
        states = model.encode_items(items)
        assert states[0].equal(states[1])
    with inference(model):
        states = model.encode_users(users)
        assert not states[0].equal(states[1])
        assert not model.encode_items(items)[0].equal(model.encode_items(items)[1])


def test_a_user_comes_with_its_own_factor_only_where_the_factorisation_knew_it(planted):
    model = build_model("dropoutnet", planted.schema, {"user_dropout": 0.0, "transform": 0.0})
    assert isinstance(model, DropoutNet)
    model.factored[5] = True
    model.train()
    users = planted.users(torch.tensor([5, 6]), torch.tensor([[4, 9], [4, 9]]))
    found = model.preference(users)
    assert found[0].equal(model.user_factors[5])
    torch.testing.assert_close(found[1], model.item_factors[[4, 9]].mean(0))


@pytest.mark.parametrize("name", ["dropoutnet", "deezernet"])
def test_the_objective_moves_nothing_where_the_own_loss_trains(name, planted):
    model = build_model(name, planted.schema)
    model.start_from(planted.log)  # type: ignore[operator]
    model.train()
    users = users_with_history(planted, planted.log, torch.arange(2, 40), 5)
    encoded = model(Batch(users, planted.items(torch.arange(2, 40))))
    assert encoded.losses["factors"] > 0.0
    assert model.logit_scale() == 0.0
    model.eval()
    assert model.logit_scale() == 1.0


def test_dropoutnet_refuses_an_objective_that_hands_it_no_items(planted):
    model = build_model("dropoutnet", planted.schema).train()
    users = planted.users(torch.tensor([5]), torch.tensor([[4]]))
    with pytest.raises(InputError, match="set objective.loss = 'sampled_softmax'"):
        model(Batch(users, Items(torch.tensor([4]))))


def test_clusters_answer_with_what_is_popular_in_the_nearest_one():
    offsets = torch.tensor([0, 0, 0, 3, 6, 9, 12])
    log = Log(offsets, torch.tensor([2, 3, 4, 2, 3, 4, 5, 6, 7, 5, 6, 7]))
    schema = Schema(num_users=6, num_items=8, user_features=(Feature("kind", "categorical", 4),))
    settings = {"answer": "clusters", "clusters": 5, "factor_dim": 4, "smoothing": 2.0}
    model = build_model("deezernet", schema, settings)
    assert isinstance(model, DeezerNet)
    model.start_from(log)
    with inference(model):
        state = model._answered(torch.nn.functional.normalize(model.user_factors[[2, 3, 4]], dim=1))
        assert state.sum(1).tolist() == [1.0, 1.0, 1.0]
        assert not state[:, 4].any(), "four users fill four clusters at most"
        scores = model.score(state, model.encode_items(Items(torch.arange(8))))
    assert scores[0, :5].topk(3).indices.sort().values.tolist() == [2, 3, 4]
    assert scores[2].topk(3).indices.sort().values.tolist() == [5, 6, 7]
    assert scores[:, 2:].sum(1).tolist() == pytest.approx([1.0, 1.0, 1.0]), "shares of a cluster's events"


def test_popularity_by_cluster_is_counts_mixed_with_those_of_all():
    schema = Schema(num_users=8, num_items=6, user_features=(Feature("kind", "categorical", 4),))
    kind = torch.tensor([0, 0, 2, 2, 3, 3, 2, 3])
    log = Log(torch.tensor([0, 0, 0, 2, 4, 6, 8, 8, 8]), torch.tensor([2, 3, 2, 3, 4, 5, 4, 2]))
    model = build_model("cluster_popularity", schema, {"clusters": 2, "smoothing": 3.0})
    assert isinstance(model, ClusterPopularity)
    model.attach_users({"kind": kind})
    model.fit_log(log)
    with inference(model):
        users = Users(torch.tensor([6, 7]), {"kind": kind[[6, 7]]}, torch.zeros(2, 1, dtype=torch.int64))
        scores = model.score(model.encode_users(users), model.encode_items(Items(torch.arange(6))))
    events = {2: [2, 3, 2, 3], 3: [4, 5, 4, 2]}
    whole = [*events[2], *events[3]]
    for row, of in enumerate((2, 3)):
        for item in range(2, 6):
            wanted = (events[of].count(item) + 3.0 * whole.count(item) / 8) / (4 + 3.0)
            assert float(scores[row, item]) == pytest.approx(wanted)


def test_without_users_at_hand_popularity_by_cluster_is_popularity(tiny_dataset):
    found = []
    for name in ("cluster_popularity", "popularity"):
        model: Model = build_model(name, tiny_dataset.schema)
        model.fit_log(tiny_dataset.log)  # type: ignore[operator]
        with inference(model):
            users = model.encode_users(users_with_history(tiny_dataset, tiny_dataset.log, torch.arange(2, 7), 1))
            scores = model.score(users, model.encode_items(tiny_dataset.all_items()))
        found.append(scores / scores.sum(1, keepdim=True))
    torch.testing.assert_close(*found)


def test_features_come_before_the_history_and_count_as_events(tiny_dataset):
    with_features = {"dim": 8, "history_length": 3, "user_features": True}
    for name, more in (("sparcode_twin", {}), ("sparcode", {"codes": "none"})):
        model = build_model(name, tiny_dataset.schema, with_features | more).eval()
        plain = build_model(name, tiny_dataset.schema, {"dim": 8, "history_length": 3} | more).eval()
        nobody = tiny_dataset.users(torch.tensor([2, 3]), torch.zeros(2, 1, dtype=torch.int64))
        with inference(model), inference(plain):
            told, silent = model.encode_users(nobody), plain.encode_users(nobody)
        told, silent = (state if isinstance(state, Tensor) else state.vectors for state in (told, silent))
        assert not told[0].equal(told[1])
        assert not silent.any()


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("dropoutnet", {"target": "ratings"}, "target"),
        ("dropoutnet", {"user_dropout": 1.5}, "in \\[0, 1\\]"),
        ("deezernet", {"answer": "users"}, "answer"),
        ("deezernet", {"clusters": 0}, "clusters"),
        ("melu", {"hidden": []}, "hidden"),
        ("melu", {"inner_rate": -1.0}, "at least"),
        ("cluster_popularity", {"smoothing": 0.0}, "smoothing"),
        ("sparcode_twin", {"user_features": True, "feature_dropout": 1.0}, "feature_dropout"),
    ],
)
def test_a_wrong_setting_is_named(name, settings, words, tiny_dataset):
    with pytest.raises(InputError, match=words) as error:
        build_model(name, tiny_dataset.schema, settings)
    assert "\n" not in str(error.value)


@pytest.mark.bad_input
@pytest.mark.parametrize("name", ["deezernet", "dropoutnet", "melu"])
def test_users_without_features_need_a_history(name):
    with pytest.raises(InputError, match="users have no features"):
        build_model(name, Schema(num_users=5, num_items=6), {"history_length": 0})
