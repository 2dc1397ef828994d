"""Search of a FAISS index under filters and exclusions: past what may not come back, and by a scan where few may."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from twotower.core.records import TopK
from twotower.index.approximate_rows import Rows, inner_products
from twotower.index.checks import nothing

FEW, SHARE = 2_000, 0.05
"""A scan is quicker than a filtered search when at most so many items, or this share of them, may come back."""
MANY = 0.1
"""Share of the items that is looked through for a user, or excluded for one, beyond which a scan is surer."""
MORE = 1.5
"""Rows asked for under a filter, as a multiple of those among which as many as wanted pass on average."""
AGAIN = 3
"""Times more rows that are asked for, once, where too few passed and so many more would do."""
MOST_BEYOND = 200
"""Exclusions of a user up to which one user is answered the short way."""
TILE = 256
"""Users searched at a time."""
_NOTHING = np.zeros(0, np.int64)


class Search(Rows):
    """Search the structure for the best rows of all, and keep those that may come back.

    So many more are asked for as are left out on average, with as much more effort. Where fewer than wanted pass, since
    the filter leaves out what is near this user, more are asked for once, if that may do; else the vectors that may
    come back are scanned. Recall is that of a longer list without a filter, whatever the filter.
    """

    effort: ClassVar[str]
    _settings: dict[str, int]

    @abstractmethod
    def _parameters(self, effort: int) -> Any:
        """Return the FAISS search parameters of one search."""

    @abstractmethod
    def _widened(self, effort: int, excluded: int) -> int:
        """Return the effort that gets past so many excluded items, which may be the very best."""

    @abstractmethod
    def _most(self) -> int:
        """Return the effort beyond which more finds nothing more, or a scan is quicker."""

    def _fetched(self, k: int, excluded: int) -> int:
        """Return how many rows the structure is asked for, to be scored again."""
        return k

    def _search(
        self, queries: NDArray[np.float32], allowed: Tensor, count: int, k: int, exclude: Tensor | None
    ) -> TopK:
        """Search users without exclusions in tiles, each other by itself: no answer depends on who else asks."""
        if len(queries) == 1 and count == len(self._ids):  # what a service asks
            few = self._beyond(queries, k, None if exclude is None else exclude[0])
            if few is not None:
                return few
        scores, ids = nothing(len(queries), k, torch.device("cpu"))
        some = torch.zeros(len(queries), dtype=torch.bool) if exclude is None else (exclude >= 0).any(dim=1)
        groups = [*(~some).nonzero()[:, 0].split(TILE), *some.nonzero()]
        for users in groups:
            if not len(users):
                continue
            asked, unwanted = queries[users.numpy()], None
            if exclude is not None and some[users[0]]:
                unwanted = self._rows_of(exclude[users[0]].unique())
                unwanted = unwanted[allowed[unwanted]]
            scores[users], ids[users] = self._group(asked, allowed, count, k, unwanted)
        return TopK(scores, ids)

    def _beyond(self, query: NDArray[np.float32], k: int, exclude: Tensor | None) -> TopK | None:
        """Answer one user with few exclusions, or none, by asking for so many more: what `_group` finds, for less.

        None where that does not do: many exclusions, or too few found. Every row may come back but for those.
        """
        left_out = _NOTHING if exclude is None else np.unique(exclude.numpy())
        if len(left_out) and left_out[0] < 0:
            left_out = left_out[left_out >= 0]
        more, total = len(left_out), len(self._ids)
        if more > MOST_BEYOND or k + more > SHARE * total:
            return None
        effort = min(self._widened(self._settings[self.effort], more), self._most())
        fetched = min(self._fetched(k, more) + more, total)
        parameters = self._unfiltered.get(effort)
        if parameters is None:
            parameters = self._parameters(effort)
            self._unfiltered = {effort: parameters}
        rows = self._structure.search(query, fetched, params=parameters)[1][0]
        rows = rows[rows >= 0]
        ids = self._ids.numpy()[rows]
        if more:
            stays = left_out.take(left_out.searchsorted(ids), mode="clip") != ids
            rows, ids = rows[stays], ids[stays]
        if len(rows) < min(self._fetched(k, 0), total - more):
            return None
        scores = inner_products(self._vectors[rows][None], query)[0]
        order = np.lexsort((ids, -scores))[:k]
        return TopK(torch.from_numpy(scores[order])[None], torch.from_numpy(ids[order])[None])

    def _group(
        self, queries: NDArray[np.float32], allowed: Tensor, count: int, k: int, unwanted: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Answer users that have the same exclusions."""
        banned = 0 if unwanted is None else len(unwanted)
        left, total = count - banned, len(self._ids)
        if left < 1:
            return nothing(len(queries), k, torch.device("cpu"))
        mask = None if count == total else allowed.numpy()
        need = min(self._fetched(k, 0), left)
        fetched = self._fetched(k, banned) + banned
        if mask is not None:
            fetched = math.ceil(MORE * fetched * total / count)
        effort = self._settings[self.effort] * total / count
        scores, ids = nothing(len(queries), k, torch.device("cpu"))
        open, hopeless = torch.arange(len(queries)), []
        for _ in range(2):
            if fetched > max(MANY * total, self._fetched(k, 0)) or banned > MANY * total or not len(open):
                break
            asked = queries[open.numpy()]
            parameters = self._parameters(min(self._widened(math.ceil(effort), banned), self._most()))
            rows = self._structure.search(asked, min(fetched, total), params=parameters)[1]
            passing = rows >= 0
            if mask is not None:
                passing &= mask[rows.clip(min=0)]
            if unwanted is not None:
                passing &= ~np.isin(rows, unwanted.numpy())
            number = torch.from_numpy(passing.sum(axis=1))
            enough = number >= need
            best = self._scored(asked[enough.numpy()], np.where(passing, rows, -1)[enough.numpy()], k)
            scores[open[enough]], ids[open[enough]] = best
            hopeless.append(open[number * AGAIN < need])
            open = open[~enough & (number * AGAIN >= need)]
            effort, fetched = effort * AGAIN, fetched * AGAIN
        open = torch.cat([*hopeless, open])
        if not len(open):
            return scores, ids
        left_in = allowed.clone()
        if unwanted is not None:
            left_in[unwanted] = False
        scores[open], ids[open] = self._scan(queries[open.numpy()], left_in, k, None)
        return scores, ids
