"""Requests in turns: the same ones for every model, nobody always first, and answers that are those of `rank`."""

from __future__ import annotations

import pytest
import torch

from twotower.core.errors import InputError
from twotower.core.records import TopK
from twotower.evaluation.latency import answer_of, drawn_requests, percentile, take_turns
from twotower.models.build import build_model
from twotower.models.encode import encode_items
from twotower.models.ranking import rank


def test_everybody_begins_as_often(tiny_dataset):
    asked = []

    def answer(name):
        def note(users, candidates):
            asked.append((name, users.ids.tolist(), candidates.tolist()))
            return TopK(torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.int64))

        return note

    requests = list(drawn_requests(tiny_dataset, 6, candidates=3))
    times = take_turns({name: answer(name) for name in "abc"}, requests, warm_ups=2)
    assert {name: len(values) for name, values in times.items()} == {"a": 4, "b": 4, "c": 4}
    assert "".join(name for name, *_ in asked) == "abcbcacab" * 2
    for turn, request in enumerate(requests):
        for _, user, candidates in asked[3 * turn : 3 * turn + 3]:
            assert (user, candidates) == (request.users.ids.tolist(), request.candidates.tolist())


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


def test_an_answer_is_that_of_rank(tiny_dataset):
    model = build_model("two_tower", tiny_dataset.schema, {"dim": 4, "field_dim": 4, "hidden": (6,)}).eval()
    model.attach_items(tiny_dataset.all_items())
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
