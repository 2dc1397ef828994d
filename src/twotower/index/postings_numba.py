"""Compiled loops of a search in postings (numba): an accumulator in the cache, and a heap of the best."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

EMPTY = np.float32(-np.inf)
"""What the sum of an untouched item is, so that listed items are told without a second array."""


def _worse(score: Any, place: Any, other_score: Any, other_place: Any) -> Any:
    return score < other_score or (score == other_score and place > other_place)


worse = numba.njit(inline="always")(_worse)


def _sift(scores: Any, places: Any, size: Any) -> Any:
    """Let the root of a heap with the worst on top sink to where it belongs."""
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            return
        if child + 1 < size and worse(scores[child + 1], places[child + 1], scores[child], places[child]):
            child += 1
        if not worse(scores[child], places[child], scores[at], places[at]):
            return
        scores[at], scores[child] = scores[child], scores[at]
        places[at], places[child] = places[child], places[at]
        at = child


sift = numba.njit(cache=True)(_sift)


def _push(scores: Any, places: Any, size: Any, score: Any, place: Any) -> Any:
    at = size
    scores[at], places[at] = score, place
    while at > 0:
        parent = (at - 1) // 2
        if not worse(scores[at], places[at], scores[parent], places[parent]):
            break
        scores[at], scores[parent] = scores[parent], scores[at]
        places[at], places[parent] = places[parent], places[at]
        at = parent


push = numba.njit(cache=True)(_push)


def _search(
    offsets: Any,
    places: Any,
    scores: Any,
    table: Any,
    kind: Any,
    low: Any,
    step: Any,
    codes: Any,
    weights: Any,
    exclude: Any,
    allowed: Any,
    items: Any,
    total: Any,
    best_scores: Any,
    best_places: Any,
) -> None:
    users, width = codes.shape
    k = best_scores.shape[1]
    block = len(total)
    touched = np.empty(block + 1, dtype=np.int32)
    cursor = np.empty(width, dtype=np.int64)
    for user in range(users):
        heap_scores, heap_places = best_scores[user], best_places[user]
        size = 0
        for at in range(width):
            cursor[at] = offsets[codes[user, at]] if codes[user, at] >= 0 else 0
        for first in range(0, items, block):
            last = min(first + block, items)
            count = 0
            for at in range(width):
                code = codes[user, at]
                if code < 0:
                    continue
                weight, end, here = weights[user, at], offsets[code + 1], cursor[at]
                list_low, list_step = low[code], step[code]
                while here < end and places[here] < last:
                    if kind == 0:
                        value = np.float32(scores[here])
                    elif kind == 1:
                        value = list_low + list_step * np.float32(scores[here])
                    else:
                        value = table[np.int64(scores[here])]
                    place = places[here] - first
                    old = total[place]
                    fresh = old == EMPTY
                    touched[count] = place
                    count += fresh
                    total[place] = (np.float32(0) if fresh else old) + weight * value
                    here += 1
                cursor[at] = here
            for at in range(exclude.shape[1]):
                if first <= exclude[user, at] < last:
                    total[exclude[user, at] - first] = EMPTY
            for at in range(count):
                place = touched[at]
                score = total[place]
                total[place] = EMPTY
                if score == EMPTY or (len(allowed) > 0 and not allowed[place + first]):
                    continue
                item = np.int64(place + first)
                if size < k:
                    push(heap_scores, heap_places, size, score, item)
                    size += 1
                elif worse(heap_scores[0], heap_places[0], score, item):
                    heap_scores[0], heap_places[0] = score, item
                    sift(heap_scores, heap_places, size)
        while size > 1:
            size -= 1
            heap_scores[0], heap_scores[size] = heap_scores[size], heap_scores[0]
            heap_places[0], heap_places[size] = heap_places[size], heap_places[0]
            sift(heap_scores, heap_places, size)


search = numba.njit(cache=True, nogil=True)(_search)
