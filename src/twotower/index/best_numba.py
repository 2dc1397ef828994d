"""Compiled loops that keep the best of many scores (numba): keys of one number, a buffer, and a selection.

A score and a place are packed as one int64 whose order is theirs: by score, equal scores by the lower place. Keys that
beat the worst of the best so far go into a buffer of four times as many places as are wanted; when it is full, a
quickselect leaves the best. That is half the time of a heap, whose branches are not foreseen.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

LEAST = np.int64(np.iinfo(np.int64).min)
"""A key that is below all others."""
LOW = np.int64(0xFFFFFFFF)
POSITIVE = np.int32(0x7FFFFFFF)


def compiled(function: Callable[..., Any], **options: Any) -> Any:
    """Return the function as machine code; of one that is wrapped, say by a check of its types, the function within."""
    return numba.njit(**options)(inspect.unwrap(function))


def room_for(k: Any) -> Any:
    """Return how many keys the buffer for the best ``k`` holds."""
    return max(4 * k, 64)


room = compiled(room_for, cache=True)


def _key(score: Any, place: Any) -> Any:
    """The key of a finite float32 score and a place below 2^32; -0.0 is 0.0."""
    bits = np.float32(score + np.float32(0)).view(np.int32)
    bits = bits ^ POSITIVE if bits < 0 else bits
    return (np.int64(bits) << np.int64(32)) | (LOW - np.int64(place))


key = compiled(_key, inline="always")


def _score_of(one: Any) -> Any:
    bits = np.int32(one >> np.int64(32))
    return np.int32(bits ^ POSITIVE if bits < 0 else bits).view(np.float32)


score_of = compiled(_score_of, inline="always")


def _place_in(one: Any) -> Any:
    return LOW - (one & LOW)


place_in = compiled(_place_in, inline="always")


def _select(keys: Any, size: Any, k: Any) -> Any:
    """Bring the ``k`` largest of ``keys[:size]`` to the front, the smallest of them last; ``size`` is at least k."""
    low, high, wanted = np.int64(0), np.int64(size) - 1, np.int64(k) - 1
    while high > low:
        one, other, third = keys[low], keys[(low + high) // 2], keys[high]
        pivot = max(min(one, other), min(max(one, other), third))
        left, right = low, high
        while left <= right:
            while keys[left] > pivot:
                left += 1
            while keys[right] < pivot:
                right -= 1
            if left <= right:
                keys[left], keys[right] = keys[right], keys[left]
                left += 1
                right -= 1
        if wanted <= right:
            high = right
        elif wanted >= left:
            low = left
        else:
            return


select = compiled(_select, cache=True)


def _best_first(keys: Any, size: Any) -> None:
    """Sort ``keys[:size]``, the largest first (Shell's sort: few are sorted)."""
    gap = 1
    while 3 * gap + 1 < size:
        gap = 3 * gap + 1
    while gap > 0:
        for start in range(gap, size):
            moved, at = keys[start], start
            while at >= gap and keys[at - gap] < moved:
                keys[at] = keys[at - gap]
                at -= gap
            keys[at] = moved
        gap //= 3


best_first = compiled(_best_first, cache=True)


def _write(keys: Any, size: Any, ids: Any, scores: Any, found: Any) -> None:
    """Write the best of ``keys[:size]`` as scores and ids, best first; places that are left over are -inf and -1."""
    k = len(scores)
    if size > k:
        select(keys, size, k)
        size = k
    best_first(keys, size)
    for at in range(size):
        scores[at], found[at] = score_of(keys[at]), ids[place_in(keys[at])]
    for at in range(size, k):
        scores[at], found[at] = -np.inf, -1


write = compiled(_write, cache=True)
