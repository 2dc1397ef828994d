"""Known users who ask again: their states are kept, so that a question costs a search and little else."""

from __future__ import annotations

import threading
import time
from typing import NamedTuple

import torch
from torch import Tensor

from twotower.core.records import FIRST_KNOWN, State
from twotower.core.states import to_tensors
from twotower.index.approximate import ApproximateIndex
from twotower.index.scan import Scan
from twotower.serving.retriever import Answer, Retriever

BUDGET = 64 << 20
"""Bytes of what is kept; the oldest goes first."""
OVERHEAD = 1000
"""Bytes of a user beside the numbers."""
USERS, TRIES = 5, 4
"""Users asked for when the seconds of an answer are measured, and how often: the first time reads what was on disk."""


class Kept(NamedTuple):
    """Hold the state of a user, and the rows seen, padded with -1: int64 [1, most]."""

    state: State
    seen: Tensor
    bytes: int


class KnownUsers:
    """Answer known users as `Retriever.recommend` does, to the last bit. Several threads may share it.

    Args:
        retriever: preloaded.
        budget: bytes to keep.
    """

    def __init__(self, retriever: Retriever, budget: int = BUDGET) -> None:
        self._finder = retriever.finder
        self._vocabulary = retriever.bundle.user_vocabulary
        self._kept: dict[int, Kept] = {}
        self._lock = threading.Lock()
        self._budget, self._bytes = budget, 0
        self.search_seconds, self.encode_seconds = self._measured()

    def __len__(self) -> int:
        """Return how many users are kept."""
        return len(self._kept)

    def row(self, user: str) -> int | None:
        """Return the row of a user; None where the bundle does not know one of this id."""
        return self._vocabulary.known((user,)).get(user)

    def seconds(self, row: int) -> float:
        """Return how long an answer takes a thread, as it was when the bundle was loaded; infinite: not known."""
        return self.search_seconds if row in self._kept else self.search_seconds + self.encode_seconds

    def recommend(self, row: int, k: int, *, include_seen: bool | None = None) -> list[Answer]:
        """Find the best ``k`` items of a user, from 1 to all that there are."""
        kept = self._kept.get(row) or self._keep(row)
        left_out = kept.seen[:, :0] if self._finder.keeps_seen(include_seen) else kept.seen
        return self._finder.answers(self._finder.nearest(kept.state, k, left_out))[0]

    def _keep(self, row: int) -> Kept:
        state, seen = self._finder.state_of(row)
        size = OVERHEAD + sum(part.nbytes for part in (*to_tensors(state).values(), seen))
        kept = Kept(state, seen, size)
        with self._lock:
            if row not in self._kept and size <= self._budget:
                self._kept[row] = kept
                self._bytes += size
                while self._bytes > self._budget:
                    self._bytes -= self._kept.pop(next(iter(self._kept))).bytes
        return kept

    def _measured(self) -> tuple[float, float]:
        """CPU seconds of one search and of one user's encoding; infinite where an answer is made elsewhere."""
        bundle, index = self._finder.bundle, self._finder.index
        rows = range(FIRST_KNOWN, min(bundle.schema.num_users, FIRST_KNOWN + USERS))
        if bundle.device.type != "cpu" or not isinstance(index, ApproximateIndex | Scan) or not rows:
            return float("inf"), float("inf")
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as requests are answered
        try:
            encoding: list[float] = []
            searching: list[float] = []
            for row in [*rows] * TRIES:
                begin = time.thread_time()
                state, seen = self._finder.state_of(row)
                encoding.append(time.thread_time() - begin)
                begin = time.thread_time()
                self._finder.answers(self._finder.nearest(state, min(10, len(bundle.item_ids)), seen))
                searching.append(time.thread_time() - begin)
        finally:
            torch.set_num_threads(threads)
        return min(searching), min(encoding)
