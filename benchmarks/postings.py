"""Search through lists beside FAISS: lists that nominate and a twin that ranks, and sums over lists alone.

One run, one thread, batches of one, the best 50. A small SASRec two-tower learns Diginetica sessions (43,097 items;
where they are not beside the checkout, a set of the same size is drawn); k-means of its user vectors gives codes, each
with a list of its best items. Quality is recall@50 of held-out items, what was seen left out, and each method is timed
at its quickest setting that keeps 0.99 of the twin's; ``postings_over_hnsw_same_answers`` takes the quickest HNSW that
finds at least as much of the twin's own 50. Lists of 65,000 and a million items are stretched from the
learned ones: every item stands for several, so that lengths of lists and how often an item is listed keep their shape;
FAISS gets noisy copies of the vectors there, and only times are compared.

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

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import faiss
import numpy as np
import torch

import common
from postings_data import Sessions, drawn_sessions, epochs_of_forms, read_sessions, stretched, train_twin
from twotower.index.nominate import Nominate
from twotower.index.postings import Postings
from twotower.index.postings_search import search_postings
from twotower.index.sparse_codes import SparseCodesIndex

K, KEPT = 50, 0.99
SPARSITIES = {"99": 0.01, "99.5": 0.005}
LARGE = (65_000, 1_000_000)
Answer = Callable[[int], Any]
"""The request's number -> the answer, as the method gives it."""


@dataclass
class Times:
    """CPU microseconds of every request of every repeat, repeat by repeat, and whether it was interrupted."""

    requests: int
    each: list[float] = field(default_factory=list)
    cut: list[bool] = field(default_factory=list)

    @property
    def median(self) -> float:
        """p50 over all of them."""
        return float(np.median(self.each))

    def spreads(self) -> dict[str, float]:
        """p99 in multiples of p50: of all, of those that nobody interrupted, and by each request's median."""
        each, cut = np.array(self.each), np.array(self.cut)
        calm = ~(cut | np.concatenate([[False], cut[:-1]]))
        medians = np.median(each.reshape(-1, self.requests), axis=0)
        kinds = {"": each, "_uninterrupted": each[calm], "_by_request": medians}
        return {
            f"p99_over_p50{name}": round(float(np.percentile(part, 99) / np.percentile(part, 50)), 2)
            for name, part in kinds.items()
        } | {"interrupted": round(float(cut.mean()), 4)}


def timed(
    answers: dict[str, Answer], requests: int, repeats: int, *, emptied: bool = False, alone: bool = False
) -> dict[str, Times]:
    """Time every request of every method; what compiles does not count."""
    filler, found = np.ones(1 << 24, dtype=np.float32), {name: Times(requests) for name in answers}
    for repeat in range(repeats):
        for name in list(answers) if repeat % 2 == 0 else list(answers)[::-1]:
            with common.alone(alone):
                for request in range(3):
                    answers[name](request)
                for request in range(requests):
                    if emptied:
                        filler.sum()
                    before = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
                    started = time.thread_time_ns()
                    answers[name](request)
                    found[name].each.append((time.thread_time_ns() - started) / 1000)
                    found[name].cut.append(resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw > before)
    return found


def shown(times: dict[str, Times]) -> dict[str, dict[str, float]]:
    """p50 and p99 in microseconds."""
    return {
        name: {f"p{p}": round(float(np.percentile(found.each, p)), 1) for p in (50, 99)}
        for name, found in times.items()
    }


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


class Rival:
    """A FAISS index, its settings in ascending effort, and what it took to build."""

    def __init__(self, name: str, vectors: np.ndarray) -> None:
        dim, lists = vectors.shape[1], min(1024, int(4 * len(vectors) ** 0.5))
        self.name, self.efforts = name, [0]
        with common.Clock() as clock:
            if name == "flat":
                self.index = faiss.IndexFlatIP(dim)
            elif name == "hnsw":
                self.index, self.efforts = (
                    faiss.IndexHNSWFlat(dim, 32, faiss.METRIC_INNER_PRODUCT),
                    [16, 24, 32, 48, 64, 128],
                )
                self.index.hnsw.efConstruction = 80
            else:
                coding = "Flat" if name == "ivf_flat" else f"PQ{dim // 4}x8"
                self.index = faiss.index_factory(dim, f"IVF{lists},{coding}", faiss.METRIC_INNER_PRODUCT)
                self.index.cp.niter, self.efforts = 10, [4, 8, 16, 32, 64]
                if name == "ivf_pq":
                    self.index.pq.cp.niter = 10
                self.index.train(vectors[:: max(1, len(vectors) // 60_000)])
            self.index.add(vectors)
        self.build_seconds = round(clock.cpu, 2)

    def set(self, effort: int) -> None:
        """Search with this effort from now on."""
        if self.name == "hnsw":
            self.index.hnsw.efSearch = effort
        elif self.name != "flat":
            self.index.nprobe = effort

    def answer(self, queries: np.ndarray, effort: int, more: list[int]) -> Answer:
        """The search for the best 50, and as many more as the request has seen, at this effort."""

        def one(request: int) -> Any:
            self.set(effort)
            return self.index.search(queries[request : request + 1], K + more[request])

        return one


def lists_answer(lists: Postings, codes: torch.Tensor, seen: torch.Tensor, backend: str) -> Answer:
    """The sum over lists alone: codes are known, nothing is ranked by vectors."""
    rows, weights = codes.split(1), torch.ones(codes.shape).split(1)
    exclude = seen.split(1)
    return lambda request: search_postings(
        lists, rows[request], weights[request], K, exclude=exclude[request], backend=backend
    )


def nominate_answer(index: Nominate, users: torch.Tensor, seen: torch.Tensor) -> Answer:
    """Codes found, lists read, candidates ranked."""
    rows, exclude = users.split(1), seen.split(1)
    return lambda request: index.search(rows[request], K, exclude[request])


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
            for nearest in (2, 4):
                name = f"nominate N {codes}, {sparsity} %, c {nearest}"
                indexes[name] = clone(base, nearest)
                take(
                    name,
                    "nominate",
                    nominate_answer(indexes[name], users, sessions.seen),
                    lambda found: found.ids[0].numpy(),
                )
    for kind in ("hnsw",) if quick else ("hnsw", "ivf_flat", "ivf_pq"):
        rival = Rival(kind, items.numpy())
        figures[f"{kind}_build_cpu_seconds"] = rival.build_seconds
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
    same = quickest("hnsw", lambda name: worth[name][1] >= worth[ours][1])
    figures |= {
        "recall_over_twin": round(kept[ours], 4),
        "postings_over_flat": round(medians[ours] / medians["flat"], 4),
        "postings_over_hnsw": round(medians[ours] / medians[chosen["hnsw"]], 4) if chosen["hnsw"] else None,
        "postings_over_hnsw_same_answers": round(medians[ours] / medians[same], 4) if same else None,
        **times[ours].spreads(),
        "spreads": {name: times[name].spreads() for name in (*filter(None, chosen.values()), ours)},
        "chosen": chosen | {"nominate": ours, "hnsw_same_answers": same},
        "recall_at_50": {name: round(recall, 4) for name, (recall, _) in worth.items()},
        "share_of_the_twins_answer": {name: round(share, 4) for name, (_, share) in worth.items()},
        "microseconds_43k": shown(times),
    }
    picked = {name: answers[name] for name in (*chosen.values(), same, ours) if name}
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
    } | {"vectors": items.shape[1] * 4}
    figures["raw_microseconds"] = {name: [round(t, 1) for t in times[name].each] for name in picked}
    return base


def clone(base: Nominate, nearest: int, backend: str = "auto") -> Nominate:
    """The same lists, read otherwise."""
    index = Nominate.__new__(Nominate)
    index.__dict__.update(base.__dict__)
    index.nearest, index._ready = nearest, None
    if backend == "numpy":
        index._loops = False
    return index


def on_stretched(sessions: Sessions, base: Nominate, alone: bool, figures: dict[str, Any]) -> None:
    """Times alone: sums over 8 lists beside FAISS, at 65,000 and a million items."""
    eight = clone(base, 8).codes(sessions.users)
    nothing = [0] * len(sessions.users)
    for size in LARGE:
        answers: dict[str, Answer] = {}
        for sparsity, share in SPARSITIES.items():
            base.longest = round(len(sessions.items) * share)
            base.build(sessions.items, sessions.ids)
            lists = stretched(base.lists, size)
            answers[f"lists {sparsity} %"] = lists_answer(lists, eight, sessions.seen, "numba")
        source = np.sort(np.random.default_rng(1).integers(0, len(sessions.items), size))
        vectors = sessions.items.numpy()[source]
        vectors += np.random.default_rng(2).normal(0.0, 0.05, vectors.shape).astype(np.float32)
        queries = np.ascontiguousarray(sessions.users.numpy())
        for kind in ("flat", "hnsw", "ivf_flat", "ivf_pq"):
            rival = Rival(kind, vectors)
            figures[f"{kind}_build_cpu_seconds_{size}"] = rival.build_seconds
            effort = {"hnsw": 64, "flat": 0}.get(kind, 8)
            answers[f"{kind} {effort}".removesuffix(" 0")] = rival.answer(queries, effort, nothing)
        requests = 300 if size < 100_000 else 60
        times = timed(answers, requests, 3, alone=alone)
        figures[f"microseconds_{size}"] = shown(times)
        figures[f"microseconds_{size}_emptied"] = shown(timed(answers, 30, 1, emptied=True, alone=alone))
        for sparsity in SPARSITIES:
            own = times[f"lists {sparsity} %"]
            figures[f"lists_{sparsity}_over_flat_{size}"] = round(own.median / times["flat"].median, 4)
            figures |= {f"lists_{sparsity}_{name}_{size}": value for name, value in own.spreads().items()}


def on_whole_requests(sessions: Sessions, base: Nominate, alone: bool, figures: dict[str, Any]) -> None:
    """A request from its history on: the twin's tower, uncompiled, and a search, over the same 43,097 items."""
    flat = Rival("flat", sessions.items.numpy()).index
    index, seen = clone(base, 2), sessions.seen.split(1)

    def by_flat(request: int) -> Any:
        vector = sessions.encode(request).numpy()
        return flat.search(vector, K + int((seen[request] >= 0).sum()))

    answers: dict[str, Answer] = {
        "tower alone": sessions.encode,
        "tower and flat": by_flat,
        "tower and lists": lambda request: index.search(sessions.encode(request), K, seen[request]),
    }
    figures["microseconds_whole_request"] = shown(timed(answers, 60, 2, alone=alone))


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
        figures["cpu_seconds_an_epoch"] = epochs_of_forms(log)
    with torch.inference_mode():
        base = on_real_lists(sessions, options.quick, options.alone, figures)
        if not options.quick:
            on_whole_requests(sessions, base, options.alone, figures)
            on_stretched(sessions, base, options.alone, figures)
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
