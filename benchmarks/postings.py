"""Search through lists beside FAISS: lists that nominate and a twin that ranks, and sums over lists alone.

One run, one thread, batches of one, the best 50. A small SASRec two-tower learns Diginetica sessions (43,097 items;
where they are not beside the checkout, a set of the same size is drawn); k-means of its user vectors gives codes, each
with a list of its best items. Quality is recall@50 of held-out items, what was seen left out, and each method is timed
at its quickest setting that keeps 0.99 of the twin's. ``postings_over_hnsw`` takes the quickest HNSW that keeps as much
recall as the lists do, ``…_each_at_099`` the quickest that keeps 0.99, ``…_same_answers`` the quickest that finds at
least as much of the twin's own 50. For 65,000 and a million items see `postings_large`.

Times are CPU time of the thread, p50 and p99 over the requests of all repeats; methods take turns by repeats, and
``p99_over_p50`` is that p99 over that p50. Other work on the machine lengthens CPU time too: the kernel's switch is in
it, and whoever ran meanwhile has emptied the caches. So interruptions are counted, ``…_uninterrupted`` leaves out
requests that met one and those right after, ``…_by_request`` takes each request's median over the repeats; and
``--alone`` asks the system for a core of its own while requests run (``SCHED_FIFO``; for the superuser). "Emptied": 64
MiB are read before each request.

Sparse codes of the item vectors are the cheap rival: with candidates ranked by the vectors, and alone.

Nominating finds codes and ranks candidates inside the time, and leaves out what was seen. FAISS is called directly and
asked for as many more as were seen; they are dropped outside the time. Sums over lists alone know their codes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
import torch

import common
from postings_data import ASKED, OwnLists, Sessions, drawn_sessions, epochs_of_forms, read_sessions, train_twin
from postings_large import on_large
from postings_methods import SPARSITIES, Answer, K, Rival, clone, lists_answer, nominate_answer, shown, timed
from twotower.index.nominate import Nominate
from twotower.index.postings_search import search_postings
from twotower.index.sparse_codes import SparseCodesIndex

KEPT = 0.99
"""Of the twin's recall: what a method's setting has to find."""


class Quality:
    """What an answer is worth: recall of held-out items, and its share of the twin's own answer."""

    def __init__(self, sessions: Sessions, requests: int) -> None:
        self.seen = [row[row >= 0].numpy() for row in sessions.seen[:requests]]
        self.truth = [row.numpy() for row in sessions.truth[:requests]]
        self.exact: list[np.ndarray] = []

    def __call__(self, ids_of: Callable[[int], np.ndarray]) -> tuple[float, float]:
        """Return recall and share; ``ids_of`` gives a request's answer, and may hold what was seen."""
        lists = [
            ids[(ids >= 0) & ~np.isin(ids, seen)][:K] for ids, seen in zip(self._all(ids_of), self.seen, strict=True)
        ]
        self.exact = self.exact or lists
        found = [np.isin(truth, best).mean() for truth, best in zip(self.truth, lists, strict=True)]
        same = [np.isin(best, own).mean() for best, own in zip(self.exact, lists, strict=True)]
        return float(np.mean(found)), float(np.mean(same))

    def _all(self, ids_of: Callable[[int], np.ndarray]) -> list[np.ndarray]:
        return [ids_of(request) for request in range(len(self.truth))]


def sparse_answer(index: SparseCodesIndex, users: torch.Tensor, seen: torch.Tensor, read: int) -> Answer:
    """Directions found, lists read, 200 candidates ranked by their vectors."""
    rows, exclude = users.split(1), seen.split(1)

    def one(request: int) -> Any:
        index.set_effort(read)
        return index.search(rows[request], K, exclude[request])

    return one


def sums_answer(index: SparseCodesIndex, users: torch.Tensor, seen: torch.Tensor, read: int) -> Answer:
    """The inner product with the sparse codes alone: no vector is kept."""
    lists, rows, exclude = index.lists, users.split(1), seen.split(1)
    assert lists is not None

    def one(request: int) -> Any:
        best = index.weights(rows[request]).topk(read, dim=1)
        codes = best.indices.masked_fill(best.values <= 0, -1)
        return search_postings(lists, codes, best.values, K, exclude=exclude[request])

    return one


def of_ranked(found: Any) -> np.ndarray:
    """The ids of one request."""
    return np.asarray(found.ids[0])


def on_real_lists(sessions: Sessions, quick: bool, alone: bool, figures: dict[str, Any]) -> Nominate:
    """Quality and time at equal recall, on the lists that were learned; returns an index to stretch."""
    items, users, ids = sessions.items, sessions.users, sessions.ids
    queries = np.ascontiguousarray(users.numpy())
    more = (sessions.seen >= 0).sum(1).tolist()
    requests, repeats = min(len(users), 200 if quick else 300), 3 if quick else 5
    judge = Quality(sessions, len(users))
    answers: dict[str, Answer] = {}
    of: dict[str, str] = {}
    worth: dict[str, tuple[float, float]] = {}
    indexes: dict[str, Nominate] = {}

    def take(name: str, kind: str, answer: Answer, ids_of: Callable[[Any], np.ndarray]) -> None:
        answers[name], of[name] = answer, kind
        worth[name] = judge(lambda request: ids_of(answer(request)))

    def of_faiss(found: Any) -> np.ndarray:
        return np.where(found[1][0] < 0, -1, ids.numpy()[found[1][0]])

    take("flat", "flat", Rival("flat", items.numpy()).answer(queries, 0, more), of_faiss)
    for codes in (512,) if quick else (512, 1024, 2048):
        with common.Clock() as clock:
            base = Nominate(sessions.states, codes=codes, longest=1, nearest=4, seed=1)
        figures[f"codes_{codes}_build_cpu_seconds"] = round(clock.cpu, 2)
        for sparsity, share in SPARSITIES.items():
            base.longest = round(len(items) * share)
            with common.Clock() as clock:
                base.build(items, ids)
            figures[f"lists_{codes}_{sparsity}_build_cpu_seconds"] = round(clock.cpu, 2)
            for nearest in (1, 2, 4):
                name = f"nominate N {codes}, {sparsity} %, c {nearest}"
                indexes[name] = clone(base, nearest)
                take(
                    name,
                    "nominate",
                    nominate_answer(indexes[name], users, sessions.seen),
                    lambda found: found.ids[0].numpy(),
                )
    bytes_of_rivals: dict[str, float] = {}
    for kind in ("hnsw",) if quick else ("hnsw", "ivf_flat", "ivf_pq"):
        rival = Rival(kind, items.numpy())
        figures[f"{kind}_build_cpu_seconds"] = rival.build_seconds
        bytes_of_rivals[kind] = rival.bytes_an_item()
        for effort in rival.efforts:
            take(f"{kind} {effort}", kind, rival.answer(queries, effort, more), of_faiss)
    figures["sparse_codes_bytes_an_item"] = {}
    for active in (16, 32):
        with common.Clock() as clock:
            sparse = SparseCodesIndex(active=active)
            sparse.build(items, ids)
        assert sparse.lists is not None
        figures[f"sparse_codes_{active}_build_cpu_seconds"] = round(clock.cpu, 2)
        figures["sparse_codes_bytes_an_item"][str(active)] = round(sparse.lists.num_bytes / len(items), 1)
        for read in (32, 128):
            name = f"sparse codes {active}, read {read}"
            take(
                f"{name}, alone",
                "sparse_codes_alone",
                sums_answer(sparse, users, sessions.seen, read),
                of_ranked,
            )
            take(name, "sparse_codes", sparse_answer(sparse, users, sessions.seen, read), of_ranked)
    times = timed(answers, requests, repeats, alone=alone)
    medians = {name: found.median for name, found in times.items()}
    kept = {name: recall / worth["flat"][0] for name, (recall, _) in worth.items()}

    def quickest(kind: str, able: Callable[[str], bool]) -> str | None:
        return min((name for name in of if of[name] == kind and able(name)), key=medians.__getitem__, default=None)

    chosen = {kind: quickest(kind, lambda name: kept[name] >= KEPT) for kind in dict.fromkeys(of.values())}
    ours = chosen["nominate"] or max(indexes, key=kept.__getitem__)
    equal = quickest("hnsw", lambda name: kept[name] >= kept[ours])
    same = quickest("hnsw", lambda name: worth[name][1] >= worth[ours][1])
    figures |= {
        "recall_over_twin": round(kept[ours], 4),
        "postings_over_flat": round(medians[ours] / medians["flat"], 4),
        "postings_over_hnsw": round(medians[ours] / medians[equal], 4) if equal else None,
        "postings_over_hnsw_each_at_099": round(medians[ours] / medians[hnsw], 4) if (hnsw := chosen["hnsw"]) else None,
        "postings_over_hnsw_same_answers": round(medians[ours] / medians[same], 4) if same else None,
        **times[ours].spreads(),
        "spreads": {name: times[name].spreads() for name in (*filter(None, chosen.values()), ours)},
        "chosen": chosen | {"nominate": ours, "hnsw_equal_recall": equal, "hnsw_same_answers": same},
        "recall_at_50": {name: round(recall, 4) for name, (recall, _) in worth.items()},
        "share_of_the_twins_answer": {name: round(share, 4) for name, (_, share) in worth.items()},
        "microseconds_43k": shown(times),
    }
    picked = {name: answers[name] for name in (*chosen.values(), equal, same, ours) if name}
    figures["microseconds_43k_emptied"] = shown(timed(picked, 20 if quick else 60, 1, emptied=True, alone=alone))
    best = indexes[ours]
    others = {
        f"lists alone, {backend}": lists_answer(best.lists, best.codes(users), sessions.seen, backend)
        for backend in ("numba", "numpy")
    }
    others["nominate, numpy"] = nominate_answer(clone(best, best.nearest, backend="numpy"), users, sessions.seen)
    figures["microseconds_43k_other_forms"] = shown(timed(others, min(requests, 200), 2, alone=alone))
    figures["bytes_an_item"] = {
        name: round(index.lists.num_bytes / len(items), 1) for name, index in indexes.items() if name.endswith("c 2")
    } | {"vectors": items.shape[1] * 4, **bytes_of_rivals}
    figures["raw_microseconds"] = {name: [round(t, 1) for t in times[name].each] for name in picked}
    return base


def on_own_lists(own: dict[str, OwnLists], alone: bool, figures: dict[str, Any]) -> None:
    """Time of the sums over lists of the codes of SparCode and a gate, after one epoch."""
    answers = {
        f"{name}, 99 %, {of.codes.shape[1]} lists": lists_answer(of.lists, of.codes, of.seen, "numba", of.weights)
        for name, of in own.items()
    }
    figures["microseconds_43k_own_lists"] = shown(timed(answers, ASKED, 3, alone=alone))


def main() -> None:
    """Measure, print, keep."""
    parser = common.parser(__doc__)
    parser.add_argument("--alone", action="store_true", help="take a core for the requests (SCHED_FIFO; superuser)")
    options = common.parse(parser)
    faiss.omp_set_num_threads(1)
    log = read_sessions(40_000 if options.quick else 120_000) or drawn_sessions(40_000 if options.quick else 120_000)
    figures: dict[str, Any] = {}
    with common.Clock() as clock:
        sessions = train_twin(log, epochs=1, asked=1_024 if options.quick else 4_096)
    figures["twin_cpu_seconds"] = round(clock.cpu, 1)
    if not options.quick:
        figures["cpu_seconds_an_epoch"], own = epochs_of_forms(log)
        on_own_lists(own, options.alone, figures)
    with torch.inference_mode():
        base = on_real_lists(sessions, options.quick, options.alone, figures)
        if not options.quick:
            on_large(sessions, base, options.alone, figures)
    settings = {
        "data": log.name,
        "items": len(sessions.items),
        "dim": sessions.items.shape[1],
        "sessions_asked": len(sessions.truth),
        "k": K,
        "clock": "CPU time of the thread",
        "alone": options.alone,
    }
    common.finish("postings", options, settings=settings, figures=figures, packages=("numba",))


if __name__ == "__main__":
    main()
