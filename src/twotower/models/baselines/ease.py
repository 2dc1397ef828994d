"""EASE (embarrassingly shallow autoencoder): one ridge regression of every item on all others, in closed form."""

from __future__ import annotations

import logging
import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import FIRST_KNOWN, PADDING, Items, Users
from twotower.core.schema import Schema
from twotower.data.log import Log
from twotower.models.base import OffersChoices
from twotower.models.baselines.cooccurrence import distinct_items, incidence, latest_distinct
from twotower.ops.memory import available_memory

MOST_ITEMS = 20_000
"""Item rows up to which the weights are taken on: 1.6 GB in float32 then, and about 6.4 GB while solving."""
BYTES_WHILE_SOLVING = 16
"""Memory for each pair of items: 8 for the matrix, which is solved in place, 4 for the weights, and 4 for the best
weights so far while the penalty is chosen."""
LADDER = math.sqrt(10.0)
"""From one penalty that is tried to the next: 10, 32, 100, 316, 1,000, …"""
_COLUMNS = 1024
"""Columns of the item-item counts that are made dense at a time."""

_BLOCK = 2048
"""Rows of a block of the Cholesky factor."""

log_of_model = logging.getLogger(__name__)


class EASE(OffersChoices):
    """Score an item by the sum of its regression weights on the distinct items of the history.

        B = I − P / diag(P),  P = (XᵀX + λ I)⁻¹,  diag(B) = 0,  X the binary users × items matrix

    The user state is the history itself, so scores need no user row and serve newcomers. An empty history scores all
    items 0. Padding and unknown items have no weights. With ``decay`` below 1 the weights of an item of the history
    count decay^age, the latest of age 0, which helps where tastes move, as in long histories in order.

    Source: Steck, Embarrassingly Shallow Autoencoders for Sparse Data, WWW 2019, equations 5 to 8. Differences: solved
    in float64 through a Cholesky factor, kept in float32; decay and a limit on the history are ours.

    Args:
        lambda_: L2 penalty on the weights, in users; 0: a run chooses it on its validation split, from a ladder that
            begins at `first_choice`. Without a run, `first_choice` is taken.
        history_length: latest events of the history that are read; 0: all.
        decay: weight of an item of the history against the one after it.
    """

    has_vectors = False
    inner_product = False
    no_onnx = "its user state is the history itself, scored by a table of item pairs: there is no tower to encode with"
    choice = "lambda_"
    ladder = LADDER
    weights: Tensor

    def __init__(self, schema: Schema, *, lambda_: float = 0.0, history_length: int = 0, decay: float = 1.0) -> None:
        super().__init__()
        if not 0.0 <= lambda_ < float("inf"):
            raise ValueError(f"lambda_ must be finite and at least 0, got {lambda_!r}")
        if history_length < 0 or not 0.0 < decay <= 1.0:
            raise ValueError(
                f"history_length must be at least 0 and decay in (0, 1], got {history_length} and {decay!r}"
            )
        if schema.num_items > MOST_ITEMS:
            raise InputError(
                f"model 'ease': it keeps a weight for every pair of items, for at most {MOST_ITEMS:,} items, and this "
                f"catalogue has {schema.num_items:,}, which would take "
                f"{BYTES_WHILE_SOLVING * schema.num_items**2 / 1e9:,.1f} GB while solving; use sparse_ease, which "
                "keeps the nearest only"
            )
        self.schema = schema
        self.lambda_ = lambda_
        self.history_length, self.decay = history_length or None, decay
        self.register_buffer("weights", torch.zeros(schema.num_items, schema.num_items))

    @property
    def undecided(self) -> bool:
        """Return whether lambda_ is left to the validation split."""
        return self.lambda_ == 0.0

    def first_choice(self, log: Log) -> float:
        """Return three times the mean number of a known item's users, rounded to a step of the search.

        About what wins on logs of many sizes.
        """
        return first_penalty(log, self.schema.num_items)

    def settle(self, value: float) -> None:
        """Take a value for the open setting; the next `fit_log` solves with it."""
        self.lambda_ = value

    def fit_log(self, log: Log) -> None:
        """Solve for the weights.

        Raises:
            InputError: if the memory that is free does not hold the matrix of item pairs; says both numbers.
        """
        from scipy.linalg import lapack

        check_memory(self.schema.num_items)
        penalty = self.lambda_ or self.first_choice(log)
        seen = incidence(log, self.schema.num_items)[:, FIRST_KNOWN:]
        size = seen.shape[1]
        matrix = np.empty((size, size), dtype=np.float64, order="F")
        for start in range(0, size, _COLUMNS):
            part = slice(start, start + _COLUMNS)
            matrix[:, part] = (seen.T @ seen[:, part]).toarray()
        matrix[np.diag_indices(size)] += penalty
        if not factorise(matrix):
            raise InputError(f"model 'ease': no solution with lambda_ = {penalty:g}; raise it")
        inverse, _ = lapack.dpotri(matrix, lower=1, overwrite_c=1)
        scale = -1.0 / np.diagonal(inverse)
        known = self.weights[FIRST_KNOWN:, FIRST_KNOWN:]
        for start in range(0, size, _COLUMNS):  # the lower triangle holds the inverse, which is symmetric
            stop = min(start + _COLUMNS, size)
            rows = np.tril(inverse[start:, start:stop])
            rows[: stop - start] += np.tril(rows[: stop - start], -1).T
            known[start:, start:stop] = torch.from_numpy(rows * scale[start:stop])
            known[start:stop, stop:] = torch.from_numpy(rows[stop - start :].T * scale[stop:])
        known.fill_diagonal_(0.0)

    def encode_users(self, users: Users) -> Int[Tensor, "rows length"]:
        """Return the distinct items of the history, 0 where there are none; with a decay the latest first."""
        if self.history_length is None and self.decay == 1.0:
            return distinct_items(users.history)
        return latest_distinct(users.history, self.history_length or users.history.shape[1])

    def encode_items(self, items: Items) -> Int[Tensor, " rows"]:
        """Return the item's id: its column of the weights."""
        return items.ids

    def score(self, users: Int[Tensor, "users length"], items: Int[Tensor, " items"]) -> Float[Tensor, "users items"]:
        """Score by the sum of the rows of the history's items, at the columns of ``items``."""
        counted = None if self.decay == 1.0 else self._ages(users.shape[1]).expand(users.shape)
        return F.embedding_bag(users, self.weights, mode="sum", padding_idx=PADDING, per_sample_weights=counted)[
            :, items
        ]

    def score_rows(
        self, users: Int[Tensor, "rows length"], items: Int[Tensor, "rows *chosen"]
    ) -> Float[Tensor, "rows *chosen"]:
        """Score chosen pairs in the same way."""
        history = users.view(*users.shape[:1], *[1] * (items.ndim - 1), users.shape[1])
        return (self.weights[history, items[..., None]] * self._ages(users.shape[1])).sum(dim=-1)

    def contributions(
        self, history: Int[Tensor, " history"], items: Int[Tensor, " items"]
    ) -> Float[Tensor, "history items"]:
        """Return the weights of these items of a history, each with each of ``items``."""
        return self.weights[history[:, None], items] * self._ages(len(history))[:, None]

    def _ages(self, number: int) -> Float[Tensor, " number"]:
        """What an item of each age counts, the latest first."""
        return self.decay ** torch.arange(number, device=self.weights.device, dtype=self.weights.dtype)


def factorise(matrix: NDArray[np.float64]) -> bool:
    """Put the Cholesky factor in place of the lower triangle, block by block; return False if there is none.

    LAPACK's own routine for the whole matrix, as SciPy brings it (OpenBLAS 0.3.30), writes past its buffer from about
    16,000 rows and ends the process, when it has more than one thread.
    """
    from scipy.linalg import blas, lapack

    size = len(matrix)
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        block, wrong = lapack.dpotrf(matrix[start:stop, start:stop], lower=1)
        if wrong:
            return False
        matrix[start:stop, start:stop] = block
        if stop < size:
            below = blas.dtrsm(1.0, block, matrix[stop:, start:stop], side=1, lower=1, trans_a=1)
            matrix[stop:, start:stop] = below
            for part in range(0, size - stop, _BLOCK):
                rest = slice(stop + part, stop + part + _BLOCK)
                matrix[stop + part :, rest] -= below[part:] @ below[part : part + _BLOCK].T
    return True


def first_penalty(log: Log, num_items: int) -> float:
    """Return three times the mean number of a known item's users, rounded to a power of `LADDER`."""
    mean = float(incidence(log, num_items).sum()) / max(1, num_items - FIRST_KNOWN)
    return float(f"{LADDER ** max(1, round(math.log(max(1.0, 3.0 * mean), LADDER))):.3g}")


def check_memory(num_items: int) -> None:
    """Log the memory that solving for so many items takes, and refuse it where less is free.

    Raises:
        InputError: with what is needed and what is there.
    """
    needed, free = BYTES_WHILE_SOLVING * num_items**2, available_memory()
    if needed > free:
        raise InputError(
            f"model 'ease': {num_items:,} items need {needed / 1e9:.1f} GB while solving, and {free / 1e9:.1f} GB of "
            "memory are free; use sparse_ease, or a data set with fewer items (a larger min_item_events)"
        )
    if needed > 1e9:
        log_of_model.info("ease: %s items need %.1f GB while solving", f"{num_items:,}", needed / 1e9)
