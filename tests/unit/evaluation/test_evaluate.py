"""Evaluation: protocols, modes, results as JSON, bad input, and known figures on real data."""

from __future__ import annotations

import json

import pytest
import torch

from twotower.core.errors import InputError
from twotower.core.schema import Schema
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.data.split import Targets
from twotower.evaluation.protocol import Protocol
from twotower.evaluation.run import evaluate
from twotower.models.registry import build_model


def last_out(log: Log) -> Targets:
    """The last event of users with two or more is to be found."""
    users = log.users()
    last = (torch.arange(log.num_events) == log.offsets[users + 1] - 1) & (log.lengths[users] > 1)
    return Targets(log.select(~last), log.select(last))


@pytest.fixture
def targets(tiny_log) -> Targets:
    return last_out(tiny_log)


@pytest.fixture
def popularity(tiny_dataset, targets):
    model = build_model("popularity", tiny_dataset.schema)
    model.fit_log(targets.history)
    return model


def test_json_has_the_agreed_shape(popularity, tiny_dataset, targets):
    result = evaluate(popularity, tiny_dataset, targets, Protocol(ks=(2,), split="validation"))
    written = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert list(written) == ["split", "users", "items", "metrics", "intervals"]
    assert (written["split"], written["users"], written["items"]) == ("validation", 4, 8)
    low, high = written["intervals"]["recall@2"]
    assert 0.0 <= low <= written["metrics"]["recall@2"] <= high <= 1.0
    json.dumps(evaluate(popularity, tiny_dataset, targets, train=targets.history).details(), allow_nan=False)


def test_the_mode_of_the_model_comes_back(popularity, tiny_dataset, targets):
    for training in (True, False):
        popularity.train(training)
        evaluate(popularity, tiny_dataset, targets)
        assert popularity.training is training
        assert torch.is_grad_enabled()


def test_it_comes_back_after_an_error_too(popularity, tiny_dataset, targets):
    popularity.counts.fill_(float("nan"))
    popularity.train()
    with pytest.raises(InputError, match="scores hold NaN"):
        evaluate(popularity, tiny_dataset, targets)
    with pytest.raises(InputError, match="scores hold NaN"):
        evaluate(popularity, tiny_dataset, targets, train=targets.history)
    assert popularity.training


def test_progress_is_told_after_each_tile(popularity, tiny_dataset, targets):
    calls = []
    evaluate(popularity, tiny_dataset, targets, user_tile=3, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(3, 4), (4, 4)]


def test_negative_truths_are_not_relevant_and_negative_history_is_masked(tiny_dataset):
    """User 2 liked 3 after disliking 2; user 3 disliked 4."""
    history = Log(torch.tensor([0, 0, 0, 1, 1, 1, 1, 1]), torch.tensor([2]), None, torch.tensor([0.0]))
    truth = Log(torch.tensor([0, 0, 0, 1, 2, 2, 2, 2]), torch.tensor([3, 4]), None, torch.tensor([1.0, 0.0]))
    model = build_model("popularity", tiny_dataset.schema)
    result = evaluate(model, tiny_dataset, Targets(history, truth), Protocol(ks=(1,)))
    assert result.users.tolist() == [2]
    assert result.metrics["recall@1"] == 1.0  # all tie at 0: item 2 is masked, so item 3 comes first


def test_lists_longer_than_the_catalogue_are_short(popularity, tiny_dataset, targets):
    result = evaluate(popularity, tiny_dataset, targets, Protocol(ks=(500,), mask_seen=False), train=targets.history)
    assert result.metrics["recall@500"] == 1.0
    assert result.metrics["precision@500"] == pytest.approx(1 / 500)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"ks": ()}, "evaluation.ks"), ({"ks": (0,)}, "evaluation.ks"), ({"candidates": ()}, "candidates is empty")],
)
def test_bad_protocols_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Protocol(**settings)


def test_nothing_to_find_and_unknown_candidates_are_refused(popularity, tiny_dataset, targets):
    nothing = targets.truth.select(torch.zeros(targets.truth.num_events, dtype=torch.bool))
    with pytest.raises(InputError, match="no user has an event to be found"):
        evaluate(popularity, tiny_dataset, Targets(targets.history, nothing))
    for row in (1, 10):
        with pytest.raises(InputError, match="item rows from 2 to 9"):
            evaluate(popularity, tiny_dataset, targets, Protocol(candidates=(3, row)))


def test_one_user_and_one_item():
    schema = Schema(3, 3, has_times=False)
    truth = Log(torch.tensor([0, 0, 0, 1]), torch.tensor([2]))
    history = truth.select(torch.tensor([False]))
    model = build_model("random", schema)
    result = evaluate(model, Dataset(schema, truth, {}, {}, {}), Targets(history, truth), train=history)
    assert result.metrics["ndcg@10"] == 1.0
    assert result.intervals()["ndcg@10"] == (1.0, 1.0)


def read_log(folder) -> Log:
    import duckdb

    table = duckdb.sql(
        "select dense_rank() over (order by user_id) + 1 as u, dense_rank() over (order by item_id) + 1 as i "
        f"from (select *, row_number() over () as place from '{folder / 'ratings.parquet'}') "
        "order by u, timestamp, place"
    ).fetchnumpy()
    users = torch.from_numpy(table["u"].astype("int64"))
    counts = users.bincount(minlength=int(users.max()) + 1)
    return Log(torch.cat([counts.new_zeros(1), counts.cumsum(0)]), torch.from_numpy(table["i"].astype("int64")))


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("random", 0.0, 0.015), ("popularity", 0.06, 0.09), ("item_cosine", 0.09, 0.2), ("ease", 0.12, 0.2)],
)
def test_baselines_reach_what_they_are_known_for(shared_data, name, low, high):
    log = read_log(shared_data("ml-100k"))
    schema = Schema(len(log.offsets) - 1, int(log.items.max()) + 1, has_times=False)
    targets = last_out(log)
    model = build_model(name, schema)
    model.fit_log(targets.history)
    result = evaluate(model, Dataset(schema, log, {}, {}, {}), targets, Protocol(ks=(10,)))
    assert len(result.users) == 943
    assert low <= result.metrics["hit_rate@10"] <= high
