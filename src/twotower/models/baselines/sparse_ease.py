"""Sparse EASE (embarrassingly shallow autoencoder): each item's ridge regression on its nearest items alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import FIRST_KNOWN, PADDING, Items, Users
from twotower.core.schema import Schema
from twotower.data.log import Log
from twotower.models.base import OffersChoices
from twotower.models.baselines.cooccurrence import distinct_items, incidence
from twotower.models.baselines.ease import LADDER, first_penalty
from twotower.models.baselines.item_cosine import ItemCosine
from twotower.ops.memory import need_memory
from twotower.ops.ragged import expand

if TYPE_CHECKING:
    from scipy.sparse import csr_array

BYTES_PER_WEIGHT = 44
"""Memory for each weight: 8 where it is kept and 8 for the best so far, 12 for the neighbour lists, 16 while turned."""
NUMBERS = 1 << 23
"""Numbers of the matrices that are solved at a time, about 24 bytes each; and of the scores' terms at a time."""
EVENTS = 1 << 21
"""Events of the neighbours that are counted at a time, about 64 bytes each."""


class SparseEASE(OffersChoices):
    """Score an item by the sum of its regression weights on the distinct items of the history, the nearest alone.

        b_i = (X_Dᵀ X_D + λ I)⁻¹ X_Dᵀ x_i,  D the ``neighbours`` items of the largest cosine with item i

    The regression of EASE, each item on few others instead of all, so that memory grows with items × neighbours (44
    bytes a weight while fitting, 8 in the bundle), and time with items × neighbours³ and the events of the neighbours.
    It is EASE itself where the neighbours are all other items. The user state is the history, so newcomers are served;
    an empty history scores all items 0.

    Source: Steck, Markov Random Fields for Collaborative Filtering, NeurIPS 2019, section 3.2, with an inversion for
    every item (r = 0 there). Differences: a fixed number of neighbours by the cosine in place of a threshold on the
    correlation, binary events neither centred nor rescaled, float64.

    Args:
        neighbours: items that an item is regressed on, at most.
        lambda_: L2 penalty on the weights, in users; 0: a run chooses it on its validation split, as for `EASE`.
    """

    history_length = None
    has_vectors = False
    inner_product = False
    no_onnx = "its user state is the history itself, scored by a table of item pairs: there is no tower to encode with"
    choice = "lambda_"
    ladder = LADDER
    offsets: Tensor
    targets: Tensor
    weights: Tensor

    def __init__(self, schema: Schema, *, neighbours: int = 100, lambda_: float = 0.0) -> None:
        super().__init__()
        if neighbours < 1 or not 0.0 <= lambda_ < float("inf"):
            raise ValueError(
                f"neighbours must be at least 1 and lambda_ finite and at least 0, got {neighbours} and {lambda_!r}"
            )
        self.schema = schema
        self.lambda_ = lambda_
        self._lists: tuple[Log, NDArray[np.int32]] | None = None
        size = schema.num_items
        self.width = min(neighbours, max(1, size - FIRST_KNOWN - 1))
        self.register_buffer("offsets", torch.zeros(size + 1, dtype=torch.int64))
        self.register_buffer("targets", torch.zeros(size * self.width, dtype=torch.int32))
        self.register_buffer("weights", torch.zeros(size * self.width))

    @property
    def undecided(self) -> bool:
        """Return whether lambda_ is left to the validation split."""
        return self.lambda_ == 0.0

    def first_choice(self, log: Log) -> float:
        """Return three times the mean number of a known item's users, rounded to a step of the search."""
        return first_penalty(log, self.schema.num_items)

    def settle(self, value: float) -> None:
        """Take a value for the open setting; the next `fit_log` solves with it."""
        self.lambda_ = value

    def fit_log(self, log: Log) -> None:
        """Solve for the weights of each item, a block of items at a time.

        Raises:
            InputError: if the memory that is free does not hold them; says both numbers.
        """
        from scipy.sparse import csr_array

        size, width = self.schema.num_items, self.width
        need_memory(
            float(BYTES_PER_WEIGHT * size * width + 32 * log.num_events + 24 * NUMBERS + 64 * EVENTS),
            f"model 'sparse_ease': {size:,} items with {width} neighbours need",
            "lower model.neighbours, or take a data set with fewer items (a larger min_item_events)",
        )
        penalty = self.lambda_ or self.first_choice(log)
        if self._lists is None or self._lists[0] is not log:  # the search for lambda_ fits one log several times
            self._lists = log, self._nearest(log)
        nearest = self._lists[1]
        by_item = incidence(log, size).T.tocsr()
        found = np.zeros((size, width), dtype=np.float32)
        for block in _blocks(by_item, nearest):
            found[block] = _solve(by_item, np.arange(block.start, block.stop), nearest[block], penalty)
        ends = np.arange(size + 1, dtype=np.int64) * width
        turned = csr_array((found.ravel(), nearest.ravel(), ends), shape=(size, size)).tocsc()
        self.offsets.copy_(torch.from_numpy(turned.indptr))
        self.targets.copy_(torch.from_numpy(turned.indices))
        self.weights.copy_(torch.from_numpy(turned.data))

    def _nearest(self, log: Log) -> NDArray[np.int32]:
        """The neighbours of each item, 0 where there are fewer; all others where they are not more than the width."""
        size, width = self.schema.num_items, self.width
        if width < size - FIRST_KNOWN - 1:
            lists = ItemCosine(self.schema, neighbours=width)
            lists.find_nearest(log)
            return lists.nearest.numpy().astype(np.int32)
        known = np.arange(FIRST_KNOWN, size)
        nearest = np.zeros((size, width), dtype=np.int32)
        nearest[FIRST_KNOWN:, : len(known) - 1] = [np.delete(known, place) for place in range(len(known))]
        return nearest

    def encode_users(self, users: Users) -> Int[Tensor, "rows length"]:
        """Return the distinct items of the history, 0 where there are none."""
        return distinct_items(users.history)

    def encode_items(self, items: Items) -> Int[Tensor, " rows"]:
        """Return the item's id."""
        return items.ids

    def score(self, users: Int[Tensor, "users length"], items: Int[Tensor, " items"]) -> Float[Tensor, "users items"]:
        """Score by the weights of the history's items, added up where they are for one of ``items``."""
        column = torch.full((self.schema.num_items,), len(items), device=items.device)
        column[items] = torch.arange(len(items), device=items.device)
        scores = self.weights.new_zeros(len(users) * (len(items) + 1))
        rows = torch.arange(len(users), device=users.device).repeat_interleave(users.shape[1])
        starts, ends = (side.flatten() for side in self._spans(users))
        blocks = (ends - starts).cumsum(0) // NUMBERS
        for cells in (blocks == block for block in blocks.unique().tolist()):
            cell, entries = expand(starts[cells], ends[cells])
            places = rows[cells][cell] * (len(items) + 1) + column[self.targets[entries]]
            scores.index_add_(0, places, self.weights[entries])
        return scores.view(len(users), len(items) + 1)[:, : len(items)]

    def score_rows(
        self, users: Int[Tensor, "rows length"], items: Int[Tensor, "rows *chosen"]
    ) -> Float[Tensor, "rows *chosen"]:
        """Score chosen pairs in the same way: each weight is found by halving the list of its history item."""
        chosen = items.reshape(len(items), -1)[:, :, None].expand(-1, -1, users.shape[1])
        starts, ends = self._spans(users)
        low, high = starts[:, None].expand_as(chosen), ends[:, None].expand_as(chosen)
        last = max(0, len(self.targets) - 1)
        for _ in range(int((ends - starts).max()).bit_length() if users.numel() else 0):
            middle = (low + high) // 2
            before = self.targets[middle.clamp(max=last)] < chosen
            low, high = torch.where(before & (low < high), middle + 1, low), torch.where(before, high, middle)
        at = low.clamp(max=last)
        there = (low < ends[:, None]) & (self.targets[at] == chosen)
        return (self.weights[at] * there).sum(dim=2).view(items.shape)

    def _spans(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """First and last place of the weights of each history item; none for padding."""
        starts = self.offsets[users]
        return starts, torch.where(users == PADDING, starts, self.offsets[users + 1])


def _blocks(by_item: csr_array, nearest: NDArray[np.int32]) -> Iterator[slice]:
    """Items to solve for at a time, as many as the memory for matrices and events allows, at least one."""
    size, width = nearest.shape
    events = np.diff(by_item.indptr).astype(np.int64)
    work, start = np.cumsum(events + events[nearest].sum(axis=1)), FIRST_KNOWN
    most = max(1, NUMBERS // (width + 1) ** 2)
    while start < size:
        end = int(np.searchsorted(work, work[start - 1] + EVENTS, side="right"))
        end = min(max(start + 1, end), start + most, size)
        yield slice(start, end)
        start = end


def _solve(
    by_item: csr_array, items: NDArray[np.int64], nearest: NDArray[np.int32], penalty: float
) -> NDArray[np.float32]:
    """The weights of some items on their neighbours: [items, neighbours], 0 where there is no neighbour."""
    width = nearest.shape[1]
    counts = torch.from_numpy(_counts(by_item, np.column_stack([nearest, items])))
    matrices, aims = counts[:, :width, :width], counts[:, :width, width:]
    matrices.diagonal(dim1=1, dim2=2).add_(penalty)
    factors, wrong = torch.linalg.cholesky_ex(matrices)
    if wrong.any():
        raise InputError(f"model 'sparse_ease': no solution with lambda_ = {penalty:g}; raise it")
    weights = torch.cholesky_solve(aims, factors)
    return np.where(nearest == PADDING, 0.0, weights[:, :, 0].numpy()).astype(np.float32)


def _counts(by_item: csr_array, groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """How many users each two items of a group share: [groups, members, members]; 0 with padding.

    One sparse product for all groups: a row for each pair of a group and a user, a column for each member.
    """
    from scipy.sparse import csr_array

    number, members = groups.shape
    cells = groups.ravel()
    lengths = np.where(cells == PADDING, 0, by_item.indptr[cells + 1] - by_item.indptr[cells])
    column = np.repeat(np.arange(len(cells)), lengths)
    within = np.arange(len(column)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    users = by_item.indices[by_item.indptr[cells[column]] + within].astype(np.int64)
    row = np.unique(column // members * by_item.shape[1] + users, return_inverse=True)[1]
    ones = np.ones(len(row), dtype=np.float32)
    seen = csr_array((ones, (row, column)), shape=(int(row.max(initial=0)) + 1, len(cells)))
    shared = (seen.T @ seen).tocoo()
    counts = np.zeros((number, members, members))
    counts[shared.row // members, shared.row % members, shared.col % members] = shared.data
    return counts
