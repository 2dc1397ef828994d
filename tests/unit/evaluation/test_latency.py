"""Requests in turns: the same ones for every model, nobody always first, and answers that are those of `rank`."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from twotower.core.errors import InputError
from twotower.core.records import TopK
from twotower.evaluation.latency import answer_of, drawn_requests, percentile, take_turns
from twotower.models.base import attach_items
from twotower.models.encode import encode_items
from twotower.models.rank import rank
from twotower.models.registry import build_model


def test_everybody_begins_and_follows_everybody_as_often(tiny_dataset):
    asked = []

    def answer(name):
        def note(users, candidates):
            asked.append((name, users.ids.tolist(), candidates.tolist()))
            return TopK(torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.int64))

        return note

    requests = list(drawn_requests(tiny_dataset, 602, candidates=3))
    times = take_turns({name: answer(name) for name in "abc"}, requests, warm_ups=2)
    assert {name: len(values) for name, values in times.items()} == {"a": 600, "b": 600, "c": 600}
    assert all(value > 0.0 for values in times.values() for value in values)
    for turn, request in enumerate(requests):
        part = asked[3 * turn : 3 * turn + 3]
        assert sorted(name for name, *_ in part) == ["a", "b", "c"]
        for _, user, candidates in part:
            assert (user, candidates) == (request.users.ids.tolist(), request.candidates.tolist())
    orders = Counter("".join(name for name, *_ in asked[3 * turn : 3 * turn + 3]) for turn in range(602))
    assert len(orders) == 6
    assert min(orders.values()) > 70  # a hundred of each is expected
    with pytest.raises(InputError, match="more than the 2 that warm up"):
        take_turns({"a": answer("a")}, requests[:2], warm_ups=2)


def test_requests_are_real_users_with_distinct_items(tiny_dataset):
    requests = list(drawn_requests(tiny_dataset, 20, candidates=8, history_length=3))
    for users, candidates in requests:
        log, user = tiny_dataset.log, int(users.ids)
        events = log.items[log.offsets[user] : log.offsets[user + 1]].tolist()
        assert events
        assert [item for item in users.history[0].tolist() if item] == events[-3:]
        assert users.history.shape == (1, 3)
        assert sorted(candidates.tolist()) == list(range(2, 10))
    assert len({int(users.ids) for users, _ in requests}) > 1
    again = list(drawn_requests(tiny_dataset, 20, candidates=8, history_length=3))
    assert all(torch.equal(a.candidates, b.candidates) for a, b in zip(requests, again, strict=True))
    with pytest.raises(InputError, match="9 candidates: the data set has 8 items"):
        next(drawn_requests(tiny_dataset, 1, candidates=9))
    nobody = tiny_dataset.with_log(tiny_dataset.log.select(tiny_dataset.log.items < 0))
    with pytest.raises(InputError, match="has no event"):
        next(drawn_requests(nobody, 1, candidates=3))


def test_an_answer_is_that_of_rank(tiny_dataset):
    model = build_model("two_tower", tiny_dataset.schema, {"dim": 4, "field_dim": 4, "hidden": (6,)}).eval()
    attach_items(model, tiny_dataset.all_items())
    with torch.inference_mode():
        states = encode_items(model, tiny_dataset, torch.arange(tiny_dataset.schema.num_items), 4)
        (request,) = drawn_requests(tiny_dataset, 1, candidates=5)
        found = answer_of(model, states, 100, request)(*request)
        expected = rank(model, request.users, states, request.candidates)
    assert torch.equal(found.ids, expected.ids)
    assert torch.equal(found.scores, expected.scores)


def test_percentiles_are_values_that_were_seen():
    values = [float(value) for value in range(1, 201)]
    assert [percentile(values, share) for share in (0.0, 0.5, 0.99, 1.0)] == [1.0, 100.0, 198.0, 200.0]
    assert percentile(values[:100], 0.55) == 55.0  # 0.55 · 100 is a little more than 55 in floating point
