"""Lists of codes as sparse vectors of an engine: the sum over lists is their inner product."""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict

import numpy as np
import torch
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import State, TopK
from twotower.index.base import ScoringModel
from twotower.index.checks import nothing
from twotower.index.postings import Postings
from twotower.index.postings_index import PostingsIndex
from twotower.index.postings_sparse import SparseItem, sparse_items
from twotower.index.store_answers import BATCH, SPARE, Scored, excluded_ids, put_best


class PostingsStore(PostingsIndex):
    """Sum the lists of a user's codes by an engine of sparse vectors; all else is as in `PostingsIndex`.

    Each item that is in a list is a point, a sparse vector over codes. The lists are kept beside them, since items are
    added and removed by them; what changes in the lists is sent.
    """

    def __init__(
        self, model: ScoringModel, *, longest: int = 0, precision: str = "float16", above: float = 0.0
    ) -> None:
        super().__init__(model, longest=longest, precision=precision, above=above)
        self._stored: dict[int, SparseItem] = {}
        self._anew = False

    @abstractmethod
    def _create(self) -> None:
        """Begin an empty store for the lists of a build."""

    @abstractmethod
    def _put(self, items: list[SparseItem]) -> None:
        """Store items; one that is there is replaced."""

    @abstractmethod
    def _drop(self, ids: list[int]) -> None:
        """Remove items that are there."""

    @abstractmethod
    def _ask(self, codes: list[int], weights: list[float], k: int, among: list[int] | None, but: list[int]) -> Scored:
        """Return at most ``k`` ids and sums of those that share a code with the request."""

    def build(self, item_states: State, ids: Tensor) -> None:
        """Index ``item_states`` under ``ids``, in place of what was there, in a new store.

        Raises:
            InputError: as `PostingsIndex.build`, or if the engine refuses.
        """
        self._anew = True
        try:
            super().build(item_states, ids)
        finally:
            self._anew = False

    def _hold(self, lists: Postings, states: State) -> None:
        items = self._points(lists)
        if self._anew or self._lists is None:
            self._create()
            self._stored = {}
        fresh = [item for id, item in items.items() if id not in self._stored or not _alike(item, self._stored[id])]
        for start in range(0, len(fresh), BATCH):
            self._put(fresh[start : start + BATCH])
        gone = [id for id in self._stored if id not in items]
        if gone:
            self._drop(gone)
        self._stored = items
        super()._hold(lists, states)

    def _sums(self, lists: Tensor, weights: Tensor, k: int, exclude: Tensor | None, allowed: Tensor | None) -> TopK:
        assert self._items is not None, "searched once there are lists"
        answers = TopK(*nothing(len(lists), k, torch.device("cpu")))
        among = None if allowed is None else self._items.ids[allowed].tolist()
        for user, (row, row_weights) in enumerate(zip(lists.tolist(), weights.tolist(), strict=True)):
            if self._lists is not None and max(row, default=-1) >= self._lists.num_codes:
                raise InputError(f"postings: code {max(row)}, but the lists are of {self._lists.num_codes} codes")
            summed: dict[int, float] = defaultdict(float)
            for code, weight in zip(row, row_weights, strict=True):
                if code >= 0:
                    summed[code] += weight
            if summed:
                but = excluded_ids(exclude, user)
                put_best(answers, user, self._ask(list(summed), list(summed.values()), k + SPARE, among, but))
        return answers

    def _points(self, lists: Postings) -> dict[int, SparseItem]:
        return {item.id: item for item in sparse_items(lists)}


def _alike(one: SparseItem, other: SparseItem) -> bool:
    return np.array_equal(one.codes, other.codes) and np.array_equal(one.scores, other.scores)
