"""Search in postings: the weighted sum over the lists of a request and its top k, by NumPy or compiled loops."""

from __future__ import annotations

import functools
import importlib.util
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from twotower.core.errors import InputError, unknown_name
from twotower.core.records import TopK
from twotower.index.postings import Postings

BACKENDS = ("auto", "numpy", "numba")
WHOLE, BLOCK = 131_072, 32_768
"""A larger catalogue than the first is gone through in blocks of the second, so that sums stay in the cache."""

Kernel = Callable[..., int]
"""Writes scores and ids; returns the first code that is not there, -1 if all are."""


def search_postings(
    postings: Postings,
    codes: Tensor,
    weights: Tensor,
    k: int,
    *,
    exclude: Tensor | None = None,
    allowed: Tensor | None = None,
    backend: str = "auto",
    block: int | None = None,
) -> TopK:
    """Find the ``k`` items with the largest Σ weight · score over the lists of each request.

    Items in none of the lists are not candidates, so that fewer than ``k`` may come back: padded with id -1 and score
    -inf. Equal sums: the lower id first. Sums are float32, in the order of the codes, whatever the backend.

    Args:
        postings: the lists.
        codes: int64 [users, c], -1 where unused; a code that comes twice counts twice.
        weights: float32 [users, c].
        k: how many.
        exclude: int64 [users, n] of ids not to return, -1 where unused.
        allowed: bool [items], in the order of ``postings.ids``: False is not returned.
        backend: "numba" (compiled loops; the extra ``fast``), "numpy", or "auto": numba where it is installed.
        block: items at a time; None: all up to 131,072 items, 32,768 at a time beyond.

    Raises:
        InputError: if shapes do not fit, a code is unknown, ``k`` is below 1, or the backend is not there.
    """
    # On a small catalogue this function itself would take longer than the search: shapes, since a tensor's length costs
    # a microsecond, and NumPy, whose calls are shorter.
    users, items = codes.shape[0], len(postings.ids)
    if k < 1:
        raise InputError(f"k must be at least 1, got {k}")
    if weights.shape != codes.shape:
        raise InputError(f"postings: {tuple(weights.shape)} weights for {tuple(codes.shape)} codes")
    if exclude is not None and exclude.shape[0] != users:
        raise InputError(f"postings: exclude has {len(exclude)} rows for {users} users")
    if allowed is not None and tuple(allowed.shape) != (items,):
        raise InputError(f"postings: allowed has {len(allowed)} rows for {items} items")
    wide = (items if items <= WHOLE else BLOCK) if block is None else block
    if wide < 1 and items:
        raise InputError(f"postings: block must be at least 1, got {block}")
    scores, ids = np.empty((users, k), dtype=np.float32), np.empty((users, k), dtype=np.int64)
    sums = _sums(min(max(1, wide), max(1, items)))
    unknown = _kernel(backend)(
        postings.offsets,
        postings.places,
        *_stored(postings),
        postings.low,
        postings.step,
        np.ascontiguousarray(codes.numpy()),
        np.ascontiguousarray(weights.numpy(), dtype=np.float32),
        _nobody(users) if exclude is None or not items else np.ascontiguousarray(exclude.numpy()),
        _ALL if allowed is None else np.ascontiguousarray(allowed.numpy()),
        postings.ids,
        *sums,
        scores,
        ids,
    )
    if unknown != -1:
        raise InputError(f"postings: code {unknown}, but the lists are of {postings.num_codes} codes: another model's?")
    return TopK(torch.from_numpy(scores), torch.from_numpy(ids))


_ALL: NDArray[np.bool_] = np.zeros(0, dtype=np.bool_)


def _nobody(users: int) -> NDArray[np.int64]:
    return np.empty((users, 0), dtype=np.int64)


@functools.cache
def uses_numba(backend: str) -> bool:
    """Return whether searches of that backend are compiled loops.

    Raises:
        InputError: if the backend is unknown, or not installed.
    """
    if backend not in BACKENDS:
        raise unknown_name("backend", backend, BACKENDS)
    there = importlib.util.find_spec("numba") is not None
    if backend == "numba" and not there:
        raise InputError("backend 'numba': not installed; pip install 'twotower[fast]', or take 'numpy'")
    return there and backend != "numpy"


@functools.cache
def _kernel(backend: str) -> Kernel:
    return compiled() if uses_numba(backend) else _by_numpy


_kept = threading.local()


def _sums(block: int) -> tuple[NDArray[np.float32], NDArray[np.uint32]]:
    """The accumulator of this thread, all -inf, and room for the places that have a sum.

    Every search leaves it so, and to fill it costs more than a search."""
    kept: tuple[NDArray[np.float32], NDArray[np.uint32]] | None = getattr(_kept, "sums", None)
    if kept is None or len(kept[0]) != block:
        kept = _kept.sums = np.full(block, -np.inf, dtype=np.float32), np.empty(block + 1, dtype=np.uint32)
    return kept


@functools.cache
def compiled() -> Kernel:
    """Return the loops as machine code; the first call compiles them."""
    from twotower.index.postings_numba import search

    return search


@functools.cache
def _half() -> NDArray[np.float32]:
    """What each of the 65,536 float16 is in float32: the compiled loops have no float16."""
    with np.errstate(invalid="ignore"):
        return np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)


def _stored(postings: Postings) -> tuple[NDArray[Any], NDArray[np.float32], int]:
    """Scores as the kernels read them, a table, and which of the three ways they are to be read."""
    bytes_each = postings.scores.dtype.itemsize  # to compare types takes a microsecond
    if bytes_each == 2:
        return postings.scores.view(np.uint16), _half(), 2
    return postings.scores, _NO_TABLE, int(bytes_each == 1)


_NO_TABLE: NDArray[np.float32] = np.zeros(0, dtype=np.float32)


def _by_numpy(
    offsets: NDArray[np.int64],
    places: NDArray[np.int32],
    scores: NDArray[Any],
    table: NDArray[np.float32],
    kind: int,
    low: NDArray[np.float32],
    step: NDArray[np.float32],
    codes: NDArray[np.int64],
    weights: NDArray[np.float32],
    exclude: NDArray[np.int64],
    allowed: NDArray[np.bool_],
    ids: NDArray[np.int64],
    sums: NDArray[np.float32],
    touched: NDArray[np.uint32],
    best_scores: NDArray[np.float32],
    best_ids: NDArray[np.int64],
) -> int:
    """The same sums without compiled loops; an accumulator that is kept, or blocks, would gain nothing here."""
    del sums, touched
    wrong = codes[(codes >= len(offsets) - 1) | (codes < -1)]
    if len(wrong):
        return int(wrong[0])
    total, listed = np.zeros(len(ids), dtype=np.float32), np.zeros(len(ids), dtype=np.bool_)
    k = best_scores.shape[1]
    for user, (row, row_weights) in enumerate(zip(codes, weights, strict=True)):
        for code, weight in zip(row, row_weights, strict=True):
            if code < 0:
                continue
            part = slice(offsets[code], offsets[code + 1])
            stored = scores[part]
            if kind == 0:
                value = stored
            elif kind == 1:
                value = low[code] + step[code] * stored.astype(np.float32)
            else:
                value = table[stored]
            total[places[part]] += weight * value
            listed[places[part]] = True
        asked = listed.copy()
        if exclude.shape[1]:
            at = np.searchsorted(ids, exclude[user]).clip(max=len(ids) - 1)
            asked[at[ids[at] == exclude[user]]] = False
        if len(allowed):
            asked &= allowed
        found = asked.nonzero()[0]
        values = total[found]
        if len(found) > k:
            # Everything that is not below the k-th best, so that ties are cut by place and not by chance.
            near = values >= np.partition(values, len(values) - k)[len(values) - k]
            found, values = found[near], values[near]
        order = np.argsort(-values, kind="stable")[:k]
        best_scores[user, : len(order)], best_ids[user, : len(order)] = values[order], ids[found[order]]
        best_scores[user, len(order) :], best_ids[user, len(order) :] = -np.inf, -1
        total[listed] = 0.0
        listed[:] = False
    return -1
