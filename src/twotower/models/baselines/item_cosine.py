"""Item-based cosine: items that share users with those of the history."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from twotower.core.records import FIRST_KNOWN, PADDING, Items, Users
from twotower.core.schema import Schema
from twotower.data.log import Log
from twotower.models.base import ClosedForm
from twotower.models.baselines.cooccurrence import distinct_items, incidence
from twotower.ops.memory import need_memory
from twotower.ops.topk import top_k

if TYPE_CHECKING:
    from scipy.sparse import csr_array

BLOCK = 1 << 24
"""Numbers held at a time while fitting; a quarter of it while scoring."""
PAIRS = 1 << 22
"""Pairs of items with a user in common that are held at a time for a large catalogue, 48 bytes each."""
FEW_ITEMS = 30_000
"""Item rows up to which blocks of whole rows are quicker than the pairs that are there."""


class ItemCosine(ClosedForm):
    """Score an item by the sum of its cosines with the distinct items of the history.

        cosine(i, j) = n_ij / (sqrt(n_i n_j) + shrink),  n_i users of item i, n_ij users of both

    Of each history item only the ``neighbours`` nearest items count (equal cosines: the lower id), which keeps storage
    to items × neighbours, 12 bytes each. Fitting takes that and a block beside the log; its work is the sum over users
    of (items of the user)². The user state is the history itself, so newcomers are served; an empty history
    scores all items 0.

    Source: Deshpande and Karypis, Item-based top-N recommendation algorithms, ACM TOIS 2004, section 4.1. Difference:
    binary events, an optional shrinkage, and neighbour lists are not normalised to length 1.

    Args:
        neighbours: nearest items kept for each item.
        shrink: added to the denominator, in users: makes cosines that rest on few users smaller.
    """

    history_length = None
    has_vectors = False
    inner_product = False
    no_onnx = "its user state is the history itself, scored by a table of item pairs: there is no tower to encode with"
    nearest: Tensor
    cosines: Tensor

    def __init__(self, schema: Schema, *, neighbours: int = 100, shrink: float = 0.0) -> None:
        super().__init__()
        if neighbours < 1 or not 0.0 <= shrink < float("inf"):
            raise ValueError(
                f"neighbours must be at least 1 and shrink finite and at least 0, got {neighbours} and {shrink!r}"
            )
        self.schema = schema
        self.shrink = shrink
        width = min(neighbours, schema.num_items)
        self.register_buffer("nearest", torch.zeros(schema.num_items, width, dtype=torch.int64))
        self.register_buffer("cosines", torch.zeros(schema.num_items, width))

    def fit_log(self, log: Log) -> None:
        """Find the nearest items of each item, a block of items at a time.

        Raises:
            InputError: if the memory that is free does not hold the lists; says both numbers.
        """
        size, width = self.nearest.shape
        need_memory(
            12.0 * size * width + 24.0 * log.num_events + 48.0 * PAIRS,
            f"model 'item_cosine': {size:,} items with {width} neighbours need",
            "lower model.neighbours, or take a data set with fewer items (a larger min_item_events)",
        )
        self.find_nearest(log)

    def find_nearest(self, log: Log) -> None:
        """Find them without asking for memory first."""
        seen = incidence(log, self.schema.num_items)
        by_item = seen.T.tocsr()
        roots = np.sqrt(seen.sum(axis=0))
        if self.schema.num_items <= FEW_ITEMS:
            self._fit_whole_rows(seen, by_item, roots)
        else:
            self._fit_pairs(seen, by_item, roots)

    def _fit_whole_rows(self, seen: csr_array, by_item: csr_array, roots: NDArray[np.float32]) -> None:
        step = max(1, BLOCK // self.schema.num_items)
        for start in range(FIRST_KNOWN, self.schema.num_items, step):
            rows = np.arange(start, min(start + step, self.schema.num_items))
            together = (by_item[rows] @ seen).toarray()
            # At least 1 wherever two items share a user: the floor only turns 0 / 0 into 0.
            cosine = together / np.maximum(np.outer(roots[rows], roots) + self.shrink, 1.0)
            cosine[np.arange(len(rows)), rows] = 0.0
            scores = torch.from_numpy(cosine)
            found = top_k(scores.masked_fill_(scores == 0.0, -torch.inf), self.nearest.shape[1])
            self.nearest[rows[0] : rows[-1] + 1] = found.ids.clamp(min=PADDING).to(self.nearest)
            self.cosines[rows[0] : rows[-1] + 1] = found.scores.clamp(min=0.0).to(self.cosines)

    def _fit_pairs(self, seen: csr_array, by_item: csr_array, roots: NDArray[np.float32]) -> None:
        """The same from the pairs that share a user alone: a block takes no memory for the others."""
        size, width = self.nearest.shape
        work = np.cumsum(by_item @ np.diff(seen.indptr).astype(np.float64))
        start = FIRST_KNOWN
        while start < size:
            end = max(start + 1, int(np.searchsorted(work, work[start - 1] + PAIRS, side="right")))
            together = by_item[start:end] @ seen
            rows = np.repeat(np.arange(start, end), np.diff(together.indptr))
            columns = together.indices
            cosine = together.data / np.maximum(roots[rows] * roots[columns] + self.shrink, 1.0)
            others = columns != rows
            rows, columns, cosine = rows[others], columns[others], cosine[others]
            order = np.lexsort((columns, -cosine, rows))
            rows, columns, cosine = rows[order], columns[order], cosine[order]
            place = np.arange(len(rows)) - np.searchsorted(rows, rows)
            near = place < width
            at = torch.from_numpy(rows[near]), torch.from_numpy(place[near])
            self.nearest[start:end] = PADDING
            self.cosines[start:end] = 0.0
            self.nearest[at] = torch.from_numpy(columns[near]).to(self.nearest)
            self.cosines[at] = torch.from_numpy(cosine[near]).to(self.cosines)
            start = end

    def encode_users(self, users: Users) -> Int[Tensor, "rows length"]:
        """Return the distinct items of the history, 0 where there are none."""
        return distinct_items(users.history)

    def encode_items(self, items: Items) -> Int[Tensor, " rows"]:
        """Return the item's id."""
        return items.ids

    def score(self, users: Int[Tensor, "users length"], items: Int[Tensor, " items"]) -> Float[Tensor, "users items"]:
        """Score by the cosines of the history's neighbours, added up where the neighbour is one of ``items``."""
        column = torch.full((self.schema.num_items,), len(items), device=items.device)
        column[items] = torch.arange(len(items), device=items.device)
        scores = self.cosines.new_zeros(len(users), len(items) + 1)
        for nearest, cosines in self._neighbours(users):
            scores.scatter_add_(1, column[nearest], cosines)
        return scores[:, : len(items)]

    def score_rows(
        self, users: Int[Tensor, "rows length"], items: Int[Tensor, "rows *chosen"]
    ) -> Float[Tensor, "rows *chosen"]:
        """Score chosen pairs in the same way."""
        chosen = items.reshape(len(items), -1)
        scores = self.cosines.new_zeros(chosen.shape)
        for nearest, cosines in self._neighbours(users):
            for column, score in zip(chosen.unbind(1), scores.unbind(1), strict=True):
                score += (cosines * (nearest == column[:, None])).sum(dim=1)
        return scores.view(items.shape)

    def contributions(
        self, history: Int[Tensor, " history"], items: Int[Tensor, " items"]
    ) -> Float[Tensor, "history items"]:
        """Return the cosines of these items of a history, each with each of ``items``, 0 where it is no neighbour."""
        return self.score(history[:, None], items)

    def _neighbours(self, users: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Neighbours of the histories' items and their cosines, both [users, n], as many items at a time as fit."""
        step = max(1, BLOCK // (4 * max(1, len(users)) * self.nearest.shape[1]))
        for items in users.split(step, dim=1):
            yield self.nearest[items].flatten(1), self.cosines[items].flatten(1)
