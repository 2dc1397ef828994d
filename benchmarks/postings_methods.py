"""What `postings` measures with: times in turns, FAISS indexes by their effort, and answers by lists. No benchmark."""

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
from twotower.index.nominate import Nominate
from twotower.index.postings import Postings
from twotower.index.postings_search import search_postings

K = 50
SPARSITIES = {"99": 0.01, "99.5": 0.005}
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
                    [4, 8, 12, 16, 24, 32, 48, 64, 96, 128],
                )
                self.index.hnsw.efConstruction = 80
            else:
                coding = "Flat" if name == "ivf_flat" else f"PQ{dim // 4}x8"
                self.index = faiss.index_factory(dim, f"IVF{lists},{coding}", faiss.METRIC_INNER_PRODUCT)
                self.index.cp.niter, self.efforts = 10, [1, 2, 4, 8, 16, 32, 64]
                if name == "ivf_pq":
                    self.index.pq.cp.niter = 10
                self.index.train(vectors[:: max(1, len(vectors) // 60_000)])
            self.index.add(vectors)
        self.build_seconds = round(clock.cpu, 2)

    def bytes_an_item(self) -> float:
        """Of the index as it is written to a file."""
        return round(len(faiss.serialize_index(self.index)) / self.index.ntotal, 1)

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


def lists_answer(
    lists: Postings, codes: torch.Tensor, seen: torch.Tensor, backend: str, weights: torch.Tensor | None = None
) -> Answer:
    """The sum over lists alone: codes are known, nothing is ranked by vectors; ``weights`` None: 1 each."""
    rows, weights = codes.split(1), (torch.ones(codes.shape) if weights is None else weights).split(1)
    exclude = seen.split(1)
    return lambda request: search_postings(
        lists, rows[request], weights[request], K, exclude=exclude[request], backend=backend
    )


def nominate_answer(index: Nominate, users: torch.Tensor, seen: torch.Tensor) -> Answer:
    """Codes found, lists read, candidates ranked."""
    rows, exclude = users.split(1), seen.split(1)
    return lambda request: index.search(rows[request], K, exclude[request])


def clone(base: Nominate, nearest: int, backend: str = "auto") -> Nominate:
    """The same lists, read otherwise."""
    index = Nominate.__new__(Nominate)
    index.__dict__.update(base.__dict__)
    index.nearest, index._ready = nearest, None
    if backend == "numpy":
        index._loops = False
    return index
