"""Data of the benchmark of postings: sessions, a small two-tower that learns them, lists stretched to more items."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import common
from twotower.core.records import FIRST_KNOWN
from twotower.core.schema import Schema
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.data.splitters import by_user
from twotower.experiment.learn import learn
from twotower.experiment.run import ModelSection, Run
from twotower.index.postings import Postings, build_postings
from twotower.models.encode import encode_known_items, inference, users_with_history
from twotower.models.sparcode import SparCode
from twotower.reproduce.sparcode.measure import first_events
from twotower.training.config import Objective, Sampling, Training
from twotower.training.sources import NegativeSource

ITEMS = 43_097
HISTORY = 20
ASKED = 300
"""Test sessions that ask lists of a model's own codes."""


class Named(NamedTuple):
    """Sessions as a log, and where they are from."""

    name: str
    log: Log


@dataclass
class Sessions:
    """What the benchmark asks: test sessions by the twin's vectors, what they have seen and what is to be found."""

    items: Tensor
    ids: Tensor
    users: Tensor
    seen: Tensor
    """Ids, padded with -1."""
    truth: list[Tensor]
    states: Tensor
    """Vectors of training sessions, to be clustered."""
    encode: Callable[[int], Any]
    """Runs the user tower for one test session."""


def read_sessions(most: int | None) -> Named | None:
    """The Diginetica sessions beside the checkout; None where they are not."""
    path = common.SHARED_DATA / "sessions-diginetica" / "sessions.parquet"
    if not path.is_file():
        return None
    import duckdb

    limit = f"LIMIT {most}" if most else ""
    rows = duckdb.sql(f"SELECT items FROM '{path}' ORDER BY hash(session_id) {limit}").fetchnumpy()["items"]
    return Named(
        f"sessions-diginetica, {len(rows):,} sessions", log_of([np.asarray(row) + FIRST_KNOWN - 1 for row in rows])
    )


def drawn_sessions(count: int) -> Named:
    """Sessions of a topic each, whose items are drawn by popularity."""
    generator = np.random.default_rng(1)
    topics = generator.integers(0, 800, ITEMS)
    order = np.argsort(topics, kind="stable")
    starts = np.searchsorted(topics[order], np.arange(801))
    rows = []
    for topic in generator.integers(0, 800, count):
        own = order[starts[topic] : starts[topic + 1]]
        places = (len(own) * generator.random(generator.integers(3, 9)) ** 2).astype(np.int64)
        rows.append(own[places] + FIRST_KNOWN)
    return Named(f"drawn, {count:,} sessions", log_of(rows))


def log_of(rows: list[np.ndarray]) -> Log:
    """One user a session, from row 2."""
    lengths = np.array([0, 0, *(len(row) for row in rows)])
    offsets = np.concatenate([[0], lengths.cumsum()])
    return first_events(Log(torch.from_numpy(offsets), torch.from_numpy(np.concatenate(rows).astype(np.int64))))


def train_twin(named: Named, *, epochs: int, asked: int) -> Sessions:
    """A SASRec of width 64, cosine, sampled softmax against 1,024 shared items; sessions 8:1:1."""
    schema = Schema(len(named.log.offsets) - 1, ITEMS + FIRST_KNOWN, (), ())
    dataset = Dataset(schema, named.log, {}, {}, {"name": named.name})
    split = by_user(named.log)
    run = Run(
        model=ModelSection(
            "sasrec", {"history_length": HISTORY, "score": "cosine", "temperature": 0.1, "dropout": 0.1}
        ),
        objective=Objective("sampled_softmax"),
        sampling=Sampling((NegativeSource("uniform", {"number": 1024}),)),
        training=Training(epochs=epochs, batch_size=256, learning_rate=3e-3, evaluate_every=0, device="cpu", seed=1),
    )
    model, _ = learn(run, dataset, split)
    history = split.test.history
    users = split.test.users()[:asked]
    training = split.train.lengths.nonzero()[:, 0]
    some = training[torch.randperm(len(training), generator=torch.Generator().manual_seed(1))[:20_480]]
    with inference(model):
        items = encode_known_items(model, dataset)
        states = torch.cat(
            [model.encode_users(users_with_history(dataset, split.train, part, HISTORY)) for part in some.split(1024)]
        )
        vectors = model.encode_users(users_with_history(dataset, history, users, HISTORY))
    starts = split.test.truth.offsets
    batches = [users_with_history(dataset, history, users[at : at + 1], HISTORY) for at in range(64)]
    return Sessions(
        items.states.clone(),
        items.ids,
        vectors.clone(),
        history.seen(users),
        [split.test.truth.items[starts[user] : starts[user + 1]] for user in users.tolist()],
        states.clone(),
        lambda request: model.encode_users(batches[request]),
    )


FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "sparcode_twin": ("sparcode_twin", {"temperature": 0.06}),
    "sparcode": ("sparcode", {"warm_up": 0.0}),
    "sparcode, gate": ("sparcode", {"codes": "gate", "codebook": 1024, "warm_up": 0.0}),
}
"""SparCode and its twin, with the same encoder; codes from the first step on."""


class OwnLists(NamedTuple):
    """Lists of a model's own codes at a sparsity of 99 %, and the codes, weights and seen items of test sessions."""

    lists: Postings
    codes: Tensor
    weights: Tensor
    seen: Tensor


def epochs_of_forms(named: Named, *, most: int = 30_000) -> tuple[dict[str, float], dict[str, OwnLists]]:
    """CPU seconds of one epoch of SparCode and of its twin, by the same loss, batches and items; and lists of both."""
    offsets = named.log.offsets[: most + 3].clone()
    log = Log(offsets, named.log.items[: int(offsets[-1])])
    schema = Schema(len(offsets) - 1, ITEMS + FIRST_KNOWN, (), ())
    dataset, split = Dataset(schema, log, {}, {}, {"name": named.name}), by_user(log)
    found, own = {}, {}
    for name, (model, settings) in FORMS.items():
        run = Run(
            model=ModelSection(model, {"history_length": HISTORY, **settings}),
            objective=Objective("sampled_softmax"),
            sampling=Sampling((NegativeSource("uniform", {"number": 1024}),)),
            training=Training(epochs=1, batch_size=512, evaluate_every=0, device="cpu", seed=1),
        )
        with common.Clock() as clock:
            learnt, _ = learn(run, dataset, split)
        found[name] = round(clock.cpu, 1)
        if isinstance(learnt, SparCode):
            own[name] = own_lists(learnt, dataset, split.test.history, split.test.users()[:ASKED])
    return found, own


def own_lists(model: SparCode, dataset: Dataset, history: Log, users: Tensor) -> OwnLists:
    """The best 1 % of the items of each code, and what test sessions ask."""
    with inference(model):
        items = encode_known_items(model, dataset)
        coded = model.encode_users(users_with_history(dataset, history, users, HISTORY))
        lists = build_postings(
            lambda codes, part: model.list_scores(codes, items.states[part]).clone(),
            model.num_lists,
            items.ids,
            longest=round(len(items.ids) * 0.01),
            precision="float16",
        )
    return OwnLists(lists, coded.codes.clone(), coded.weights.clone(), history.seen(users))


def stretched(lists: Postings, size: int) -> Postings:
    """The lists over ``size`` items: each item of before stands for several, all in the lists that it was in."""
    source = np.sort(np.random.default_rng(1).integers(0, len(lists.ids), size))
    starts = np.searchsorted(source, np.arange(len(lists.ids) + 1)).astype(np.int64)
    longest = math.ceil(lists.longest * size / len(lists.ids))
    places, scores, offsets = [], [], [0]
    generator = np.random.default_rng(3)
    for code in range(lists.num_codes):
        part = slice(lists.offsets[code], lists.offsets[code + 1])
        old = lists.places[part]
        copies = starts[old + 1] - starts[old]
        total = int(copies.sum())
        at = np.repeat(starts[old] - np.concatenate([[0], copies.cumsum()[:-1]]), copies) + np.arange(total)
        places.append(at.astype(np.int32))
        value = np.repeat(lists.values(code), copies) + generator.random(total, dtype=np.float32) * 1e-3
        scores.append(value.astype(np.float32))
        offsets.append(offsets[-1] + total)
    ids = np.arange(size, dtype=np.int64) + FIRST_KNOWN
    codes = lists.num_codes
    zeros, ones = np.zeros(codes, dtype=np.float32), np.ones(codes, dtype=np.float32)
    return Postings(ids, np.array(offsets), np.concatenate(places), np.concatenate(scores), zeros, ones, longest)
