"""What every closed-form model keeps; one named in `MODELS` is a member by its line there."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from safetensors.torch import load_model, save_model

from twotower.core.errors import InputError
from twotower.core.records import Users
from twotower.core.schema import Schema
from twotower.core.states import map_state
from twotower.data.log import Log
from twotower.models.base import ClosedForm
from twotower.models.baselines import sparse_ease
from twotower.models.baselines.ease import MOST_ITEMS
from twotower.models.encode import inference, users_with_history
from twotower.models.registry import MODELS, build_model, model_class
from twotower.ops import memory

NAMES = [name for name in MODELS if issubclass(model_class(name), ClosedForm)]
CHOSEN = torch.tensor([3, 9, 2, 7])


def all_scores(model, dataset) -> torch.Tensor:
    """Every user row, from 2 up, with every item row."""
    ids = torch.arange(2, dataset.schema.num_users)
    with inference(model):
        users = model.encode_users(users_with_history(dataset, dataset.log, ids, model.history_length))
        return model.score(users, model.encode_items(dataset.all_items())).clone()


@pytest.fixture(params=NAMES)
def name(request) -> str:
    return request.param


@pytest.fixture
def fitted(name, tiny_dataset):
    model = build_model(name, tiny_dataset.schema)
    model.fit_log(tiny_dataset.log)
    return model


class TestClosedForm:
    """One class for all."""

    def test_says_what_it_is(self, fitted):
        assert isinstance(fitted, ClosedForm)
        assert fitted.batches == "none"
        assert not list(fitted.parameters())

    def test_scores_are_finite_and_do_not_depend_on_the_batch(self, fitted, tiny_dataset):
        scores = all_scores(fitted, tiny_dataset)
        assert scores.shape == (5, 10)
        assert scores.isfinite().all()
        for user in range(2, 7):
            asked = users_with_history(tiny_dataset, tiny_dataset.log, torch.tensor([user]), fitted.history_length)
            alone = fitted.score(fitted.encode_users(asked), fitted.encode_items(tiny_dataset.items(CHOSEN)))
            torch.testing.assert_close(alone[0], scores[user - 2, CHOSEN])

    def test_pairs_agree_with_the_table(self, fitted, tiny_dataset):
        scores = all_scores(fitted, tiny_dataset)
        asked = users_with_history(tiny_dataset, tiny_dataset.log, torch.arange(2, 7), fitted.history_length)
        users = fitted.encode_users(asked)
        items = torch.tensor([4, 3, 9, 2, 8])
        states = fitted.encode_items(tiny_dataset.items(items))
        torch.testing.assert_close(fitted.score_rows(users, states), scores[torch.arange(5), items])
        several = torch.tensor([[4, 3], [9, 2], [8, 4], [3, 5], [6, 7]])
        states = fitted.encode_items(tiny_dataset.items(several.flatten()))
        states = map_state(lambda part: part.view(5, 2, *part.shape[1:]), states)
        torch.testing.assert_close(fitted.score_rows(users, states), scores.gather(1, several))

    def test_stored_weights_are_all_there_is(self, fitted, name, tiny_dataset, tmp_path):
        save_model(fitted, str(tmp_path / "weights.safetensors"))
        again = build_model(name, tiny_dataset.schema)
        load_model(again, tmp_path / "weights.safetensors")
        assert all_scores(again, tiny_dataset).equal(all_scores(fitted, tiny_dataset))

    def test_fitting_twice_is_fitting_once_and_leaves_the_log_alone(self, fitted, name, tiny_dataset):
        before = tiny_dataset.log.items.clone()
        scores = all_scores(fitted, tiny_dataset)
        fitted.fit_log(tiny_dataset.log)
        assert all_scores(fitted, tiny_dataset).equal(scores)
        assert tiny_dataset.log.items.equal(before)

    def test_negative_events_teach_nothing(self, fitted, name, tiny_dataset):
        log = tiny_dataset.log
        labelled = Log(log.offsets, log.items, log.times, (torch.arange(log.num_events) % 3 > 0).float())
        other = build_model(name, tiny_dataset.schema)
        other.fit_log(labelled)
        fitted.fit_log(labelled.positives())
        assert all_scores(other, tiny_dataset).equal(all_scores(fitted, tiny_dataset))

    def test_an_empty_log_and_an_empty_history_are_no_harm(self, name, tiny_dataset):
        model = build_model(name, tiny_dataset.schema)
        empty = tiny_dataset.log.select(torch.zeros(tiny_dataset.log.num_events, dtype=torch.bool))
        model.fit_log(empty)
        assert all_scores(model, tiny_dataset.with_log(empty)).isfinite().all()


def slow_sets(log: Log) -> list[set[int]]:
    ends = log.offsets.tolist()
    return [set(log.items[a:b].tolist()) for a, b in itertools.pairwise(ends)]


def test_popularity_counts_events(tiny_dataset):
    model = build_model("popularity", tiny_dataset.schema)
    model.fit_log(tiny_dataset.log)
    items = tiny_dataset.log.items.tolist()
    assert all_scores(model, tiny_dataset)[3].tolist() == [items.count(item) for item in range(10)]


def test_random_orders_differ_between_users_and_seeds():
    schema = Schema(40, 60)
    one, same, other = (build_model("random", schema, {"seed": seed}) for seed in (1, 1, 2))
    orders = (one.user_table @ one.item_table.T).argsort(dim=1)
    assert len({tuple(row) for row in orders.tolist()}) == 40
    assert one.user_table.equal(same.user_table)
    assert not one.user_table.equal(other.user_table)


@pytest.mark.parametrize(("neighbours", "shrink"), [(20, 0.0), (3, 0.0), (4, 2.5)])
def test_item_cosine_matches_loops(tiny_dataset, neighbours, shrink):
    model = build_model("item_cosine", tiny_dataset.schema, {"neighbours": neighbours, "shrink": shrink})
    model.fit_log(tiny_dataset.log)
    sets = slow_sets(tiny_dataset.log)
    holders = {item: {user for user, items in enumerate(sets) if item in items} for item in range(2, 10)}
    near = {}
    for item in holders:
        cosines = []
        for other in holders:
            both = len(holders[item] & holders[other])
            if other != item and both:
                cosines.append((-both / (math.sqrt(len(holders[item]) * len(holders[other])) + shrink), other))
        near[item] = {other: -cosine for cosine, other in sorted(cosines)[:neighbours]}
    scores = all_scores(model, tiny_dataset)
    for user in range(2, 7):
        for item in range(10):
            expected = sum(near[seen].get(item, 0.0) for seen in sets[user])
            assert scores[user - 2, item].item() == pytest.approx(expected, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize(("window", "longest", "shrink"), [(10, 20, 0.0), (2, 20, 0.0), (3, 2, 0.0), (10, 3, 2.5)])
@pytest.mark.parametrize(("ahead", "flat"), [(False, False), (True, False), (False, True), (True, True)])
def test_item_lists_match_loops(tiny_dataset, window, longest, shrink, ahead, flat):
    settings = {"window": window, "longest": longest, "decay": 0.7, "history_length": 4, "shrink": shrink}
    settings |= {"ahead": ahead, "flat": flat}
    model = build_model("item_lists", tiny_dataset.schema, settings)
    model.fit_log(tiny_dataset.log)
    ends = tiny_dataset.log.offsets.tolist()
    histories = [tiny_dataset.log.items[a:b].tolist() for a, b in itertools.pairwise(ends)]
    events, near = tiny_dataset.log.items.tolist(), {(i, j): 0.0 for i in range(10) for j in range(10)}
    for history in histories:
        for here, one in enumerate(history):
            for there, other in enumerate(history):
                if one != other and abs(here - there) <= window and not (ahead and there < here):
                    near[one, other] += 1 if flat else 1 / abs(here - there)
    lists = {}
    for one in range(2, 10):
        found = [
            (-near[one, other] / (math.sqrt(events.count(one) * events.count(other)) + shrink), other)
            for other in range(2, 10)
            if near[one, other]
        ]
        lists[one] = {other: -score for score, other in sorted(found)[:longest]}
    scores = all_scores(model, tiny_dataset)
    for user in range(2, 7):
        for item in range(10):
            latest = histories[user][::-1][:4]
            expected = sum(0.7**age * lists[seen].get(item, 0.0) for age, seen in enumerate(latest))
            assert scores[user - 2, item].item() == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(("length", "decay"), [(0, 0.7), (3, 1.0), (3, 0.7), (50, 0.5)])
def test_ease_reads_the_latest_events_and_lets_older_items_count_less(tiny_dataset, length, decay):
    model = build_model("ease", tiny_dataset.schema, {"lambda_": 0.7, "history_length": length, "decay": decay})
    model.fit_log(tiny_dataset.log)
    weights = model.weights.double()
    histories = [[7, 3, 9, 3, 4], [6, 6, 6], [9, 8, 7, 2], [1, 5], []]
    padded = torch.tensor([history + [0] * (5 - len(history)) for history in histories])
    with inference(model):
        users = model.encode_users(Users(torch.arange(2, 7), {}, padded))
        items = model.encode_items(tiny_dataset.all_items())
        scores, chosen = model.score(users, items), model.score_rows(users, items[None].expand(5, -1))
    for user, history in enumerate(histories):
        latest = history[::-1][: length or None]
        distinct = [item for place, item in enumerate(latest) if item not in latest[:place]]
        for item in range(10):
            expected = sum(decay**age * weights[seen, item].item() for age, seen in enumerate(distinct))
            assert scores[user, item].item() == pytest.approx(expected, rel=1e-5, abs=1e-6)
            assert chosen[user, item].item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_ease_is_the_ridge_regression_of_each_item_on_the_others(tiny_dataset):
    model = build_model("ease", tiny_dataset.schema, {"lambda_": 0.7})
    model.fit_log(tiny_dataset.log)
    sets = slow_sets(tiny_dataset.log)
    seen = torch.tensor([[float(item in items) for item in range(2, 10)] for items in sets], dtype=torch.float64)
    expected = torch.zeros(8, 8, dtype=torch.float64)
    for item in range(8):
        others = [other for other in range(8) if other != item]
        X, y = seen[:, others], seen[:, item]
        expected[others, item] = torch.linalg.solve(X.T @ X + 0.7 * torch.eye(7, dtype=torch.float64), X.T @ y)
    torch.testing.assert_close(model.weights[2:, 2:].double(), expected, rtol=1e-5, atol=1e-6)
    assert not model.weights[:2].any()
    assert not model.weights[:, :2].any()
    torch.testing.assert_close(
        all_scores(model, tiny_dataset)[:, 2:].double(), (seen @ expected)[2:], rtol=1e-5, atol=1e-6
    )


def test_sparse_ease_is_ease_where_the_neighbours_are_all_items(tiny_dataset):
    whole = build_model("ease", tiny_dataset.schema, {"lambda_": 0.7})
    sparse = build_model("sparse_ease", tiny_dataset.schema, {"lambda_": 0.7, "neighbours": 7})
    for model in (whole, sparse):
        model.fit_log(tiny_dataset.log)
    torch.testing.assert_close(dense(sparse), whole.weights, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(all_scores(sparse, tiny_dataset), all_scores(whole, tiny_dataset), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("at_a_time", [1, 40, 1 << 20])
def test_sparse_ease_is_the_ridge_regression_of_each_item_on_its_nearest(tiny_dataset, monkeypatch, at_a_time):
    monkeypatch.setattr(sparse_ease, "EVENTS", at_a_time)
    settings = {"lambda_": 0.7, "neighbours": 3}
    model = build_model("sparse_ease", tiny_dataset.schema, settings)
    model.fit_log(tiny_dataset.log)
    cosine = build_model("item_cosine", tiny_dataset.schema, {"neighbours": 3})
    cosine.fit_log(tiny_dataset.log)
    sets = slow_sets(tiny_dataset.log)
    seen = torch.tensor([[float(item in items) for item in range(10)] for items in sets], dtype=torch.float64)
    expected = torch.zeros(10, 10, dtype=torch.float64)
    for item in range(2, 10):
        others = [other for other in cosine.nearest[item].tolist() if other]
        X, y = seen[:, others], seen[:, item]
        expected[others, item] = torch.linalg.solve(X.T @ X + 0.7 * torch.eye(len(others)).double(), X.T @ y)
    torch.testing.assert_close(dense(model).double(), expected, rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(sparse_ease, "NUMBERS", at_a_time)
    torch.testing.assert_close(all_scores(model, tiny_dataset).double(), (seen @ expected)[2:], rtol=1e-5, atol=1e-6)


def dense(model) -> torch.Tensor:
    """The weights of sparse EASE as a table [source, target]; those of padding, which are never read, left out."""
    table = torch.zeros(model.schema.num_items, model.schema.num_items)
    for source in range(2, model.schema.num_items):
        start, end = model.offsets[source : source + 2].tolist()
        table[source, model.targets[start:end].long()] = model.weights[start:end]
    return table


def test_sparse_ease_says_how_much_memory_is_missing_before_it_starts(tiny_dataset, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 1e8)
    model = build_model("sparse_ease", tiny_dataset.schema)
    with pytest.raises(InputError, match=r"10 items with 7 neighbours need 0\.3 GB, and 0\.1 GB .* lower model\.neigh"):
        model.fit_log(tiny_dataset.log)
    assert not model.weights.any()


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("sparse_ease", {"neighbours": 0}, "neighbours must be at least 1"),
        ("sparse_ease", {"lambda_": -1.0}, "lambda_ finite and at least 0"),
        ("ease", {"lambda_": -1.0}, "lambda_ must be finite and at least 0"),
        ("item_cosine", {"neighbours": 0}, "neighbours must be at least 1"),
        ("item_cosine", {"shrink": -1.0}, "shrink finite and at least 0"),
        ("item_lists", {"decay": 0.0}, "decay in"),
        ("ease", {"decay": 0.0}, "decay in"),
        ("ease", {"history_length": -1}, "history_length = -1: a whole number of at least 0"),
        ("item_lists", {"shrink": -1.0}, "shrink finite and at least 0"),
        ("random", {"dim": 1}, "dim must be at least 2"),
        ("popularity", {"dim": 1}, "unknown setting"),
    ],
)
def test_bad_settings_are_refused(name, settings, message):
    with pytest.raises(InputError, match=message):
        build_model(name, Schema(5, 6), settings)


def test_ease_refuses_a_catalogue_that_it_cannot_hold():
    with pytest.raises(InputError, match=r"has 20,001, which would take 6\.4 GB while solving; use sparse_ease"):
        build_model("ease", Schema(5, MOST_ITEMS + 1))


def test_item_cosine_says_how_much_memory_is_missing_before_it_starts(tiny_dataset, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 1e8)
    model = build_model("item_cosine", tiny_dataset.schema)
    with pytest.raises(InputError, match=r"10 items with 10 neighbours need 0\.2 GB, and 0\.1 GB of memory are free"):
        model.fit_log(tiny_dataset.log)
    assert not model.cosines.any()
