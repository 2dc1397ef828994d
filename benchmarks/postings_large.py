"""Search at 43,097, 65,000 and a million items: lists beside FAISS at equal recall, and a request from its history on.

Not a benchmark of its own: the last part of `postings`. Larger catalogues are stretched from the learned one: every
item stands for several, as noisy copies of its vector. Sums over lists alone keep the learned lists, with the copies in
place of an item, so that lengths of lists and how often an item is listed keep their shape. Lists that nominate are
built anew over all vectors, as the rivals are; nobody knows what is relevant there, so recall is the share of the exact
search's best 50, and each rival is timed at its quickest setting that finds as much as the lists do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

import common
from postings_data import Sessions, stretched
from postings_methods import SPARSITIES, Answer, K, Rival, clone, lists_answer, nominate_answer, shown, timed
from twotower.core.records import FIRST_KNOWN
from twotower.index.nominate import Nominate

LARGE = (65_000, 1_000_000)
NEAREST = 2
"""Codes whose lists a request reads, where lists nominate."""
JUDGED = 300
"""Requests whose answers are compared."""
STEPS = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256, 384, 512)
EFFORTS = {"hnsw": STEPS, "ivf_flat": STEPS, "ivf_pq": (*STEPS[:8:2], 64, 128, 256)}
"""What rivals try until one finds as much as the lists do: IVF-PQ never does, so its steps are few."""


def on_large(sessions: Sessions, base: Nominate, alone: bool, figures: dict[str, Any]) -> None:
    """Measure sums over lists, lists that nominate, FAISS and whole requests, by size."""
    whole = {"lists": base_at(base, sessions, sessions.items.numpy(), SPARSITIES["99"])}
    flat = Rival("flat", sessions.items.numpy())
    requests_from_histories(sessions, whole, {"flat": (flat, 0)}, len(sessions.items), alone, figures)
    for size in LARGE:
        source = np.sort(np.random.default_rng(1).integers(0, len(sessions.items), size))
        vectors = sessions.items.numpy()[source]
        vectors += np.random.default_rng(2).normal(0.0, 0.05, vectors.shape).astype(np.float32)
        sums_alone(sessions, base, vectors, alone, figures)
        at_equal_recall(sessions, base, vectors, alone, figures)


def base_at(base: Nominate, sessions: Sessions, vectors: np.ndarray, share: float) -> Nominate:
    """The lists of the same codes over other items, of this share of them."""
    index = clone(base, NEAREST)
    index.longest = round(len(vectors) * share)
    index.build(torch.from_numpy(vectors), torch.arange(len(vectors)) + FIRST_KNOWN)
    return index


def sums_alone(sessions: Sessions, base: Nominate, vectors: np.ndarray, alone: bool, figures: dict[str, Any]) -> None:
    """Times of sums over 8 known lists beside FAISS, each at one effort."""
    size, queries = len(vectors), np.ascontiguousarray(sessions.users.numpy())
    eight, nothing = clone(base, 8).codes(sessions.users), [0] * len(queries)
    answers: dict[str, Answer] = {}
    for sparsity, share in SPARSITIES.items():
        base.longest = round(len(sessions.items) * share)
        base.build(sessions.items, sessions.ids)
        answers[f"lists {sparsity} %"] = lists_answer(stretched(base.lists, size), eight, sessions.seen, "numba")
    answers["flat"] = Rival("flat", vectors).answer(queries, 0, nothing)
    times = timed(answers, 300 if size < 100_000 else 60, 3, alone=alone)
    figures[f"microseconds_{size}"] = shown(times)
    figures[f"microseconds_{size}_emptied"] = shown(timed(answers, 30, 1, emptied=True, alone=alone))
    for sparsity in SPARSITIES:
        own = times[f"lists {sparsity} %"]
        figures[f"lists_{sparsity}_over_flat_{size}"] = round(own.median / times["flat"].median, 4)
        figures |= {f"lists_{sparsity}_{name}_{size}": value for name, value in own.spreads().items()}


def at_equal_recall(
    sessions: Sessions, base: Nominate, vectors: np.ndarray, alone: bool, figures: dict[str, Any]
) -> None:
    """Lists that nominate against FAISS at the effort that finds as much of the exact best 50, and what each holds."""
    size, queries = len(vectors), np.ascontiguousarray(sessions.users.numpy())
    asked, nothing = min(JUDGED, len(queries)), [0] * len(queries)
    none = torch.full((len(queries), 1), -1, dtype=torch.int64)
    flat = Rival("flat", vectors)
    exact = flat.index.search(queries[:asked], K)[1]
    answers: dict[str, Answer] = {"flat": flat.answer(queries, 0, nothing)}
    found: dict[str, float] = {"flat": 1.0}
    held, ours = {"vectors": 4.0 * vectors.shape[1]}, dict[str, Nominate]()
    for sparsity, share in SPARSITIES.items():
        with common.Clock() as clock:
            index = base_at(base, sessions, vectors, share)
        name = f"nominate {sparsity} %"
        figures[f"lists_{sparsity}_build_cpu_seconds_{size}"] = round(clock.cpu, 2)
        ours[name], answers[name] = index, nominate_answer(index, sessions.users, none)
        held[name] = round(index.lists.num_bytes / size, 1)
        found[name] = shared(exact, [answers[name](request).ids[0].numpy() - FIRST_KNOWN for request in range(asked)])
    rivals: dict[str, tuple[Rival, int]] = {}
    for kind, efforts in EFFORTS.items():
        rival = Rival(kind, vectors)
        figures[f"{kind}_build_cpu_seconds_{size}"] = rival.build_seconds
        held[kind] = rival.bytes_an_item()
        for effort in efforts:
            rival.set(effort)
            answer = rival.index.search(queries[:asked], K)[1]
            found[f"{kind} {effort}"] = float(
                np.mean([np.isin(a, b).mean() for a, b in zip(exact, answer, strict=True)])
            )
            if found[f"{kind} {effort}"] >= max(found[name] for name in ours):
                break
        for name in ours:
            able = (effort for effort in efforts if found.get(f"{kind} {effort}", 0.0) >= found[name])
            rivals[kind] = rival, next(able, effort)
            answers[f"{kind} {rivals[kind][1]}"] = rival.answer(queries, rivals[kind][1], nothing)
    times = timed(answers, 300 if size < 100_000 else 60, 3, alone=alone)
    figures[f"share_of_the_exact_answer_{size}"] = {name: round(share, 4) for name, share in found.items()}
    figures[f"microseconds_{size}_equal_recall"] = shown(times)
    figures[f"p99_over_p50_{size}_equal_recall"] = {name: one.spreads()["p99_over_p50"] for name, one in times.items()}
    figures[f"microseconds_{size}_equal_recall_emptied"] = shown(timed(answers, 30, 1, emptied=True, alone=alone))
    figures[f"bytes_an_item_{size}"] = held
    best_lists = max(ours, key=found.__getitem__)
    rivals = {kind: (rival, max(efforts_of(answers, kind))) for kind, (rival, _) in rivals.items()}
    requests_from_histories(sessions, {"lists": ours[best_lists]}, {"flat": (flat, 0), **rivals}, size, alone, figures)


def efforts_of(answers: dict[str, Answer], kind: str) -> list[int]:
    """Return the efforts at which a rival is timed."""
    return [int(name.rpartition(" ")[2]) for name in answers if name.rpartition(" ")[0] == kind]


def shared(exact: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> float:
    """Return the mean share of the exact answers that is found."""
    return float(np.mean([np.isin(best, own).mean() for best, own in zip(exact, found, strict=True)]))


def requests_from_histories(
    sessions: Sessions,
    lists: dict[str, Nominate],
    rivals: dict[str, tuple[Rival, int]],
    size: int,
    alone: bool,
    figures: dict[str, Any],
) -> None:
    """Requests from the history on: the twin's tower, uncompiled, and a search."""
    seen = sessions.seen.split(1) if size == len(sessions.items) else torch.full((64, 1), -1).split(1)
    answers: dict[str, Answer] = {"tower alone": sessions.encode}

    def by_lists(index: Nominate) -> Answer:
        return lambda request: index.search(sessions.encode(request), K, seen[request])

    def by_rival(rival: Rival, effort: int) -> Answer:
        def one(request: int) -> Any:
            rival.set(effort)
            return rival.index.search(sessions.encode(request).numpy(), K + int((seen[request] >= 0).sum()))

        return one

    answers |= {f"tower and {name}": by_lists(index) for name, index in lists.items()}
    answers |= {f"tower and {name}": by_rival(*rival) for name, rival in rivals.items()}
    name = "microseconds_whole_request" + ("" if size == len(sessions.items) else f"_{size}")
    figures[name] = shown(timed(answers, 60, 2, alone=alone))
