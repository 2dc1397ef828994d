"""Compiled loops of a search in postings (numba): an accumulator in the cache, and a heap of the best."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

EMPTY = np.float32(-np.inf)
"""What the sum of an untouched item is, so that listed items are told without a second array."""


def compiled(function: Callable[..., Any], **options: Any) -> Any:
    """Return the function as machine code; of one that is wrapped, say by a check of its types, the function within."""
    return numba.njit(**options)(inspect.unwrap(function))


def _worse(score: Any, place: Any, other_score: Any, other_place: Any) -> Any:
    return score < other_score or (score == other_score and place > other_place)


worse = compiled(_worse, inline="always")


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


sift = compiled(_sift, cache=True)


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


push = compiled(_push, cache=True)


def _add(
    places: Any,
    scores: Any,
    table: Any,
    kind: Any,
    low: Any,
    step: Any,
    weight: Any,
    start: Any,
    stop: Any,
    first: Any,
    total: Any,
    touched: Any,
    count: Any,
) -> Any:
    """Add postings ``start`` to ``stop`` of one list to the sums; returns how many items have one by now.

    Numbers are unsigned, so that no index is checked for being negative, and each kind of score has a loop of its own.
    """
    if kind == 0:
        for here in range(start, stop):
            place = np.uint32(places[here]) - first
            old = total[place]
            fresh = old == EMPTY
            touched[count] = place
            count += np.uint64(fresh)
            total[place] = (np.float32(0) if fresh else old) + weight * np.float32(scores[here])
    elif kind == 1:
        for here in range(start, stop):
            place = np.uint32(places[here]) - first
            old = total[place]
            fresh = old == EMPTY
            touched[count] = place
            count += np.uint64(fresh)
            total[place] = (np.float32(0) if fresh else old) + weight * (low + step * np.float32(scores[here]))
    else:
        for here in range(start, stop):
            place = np.uint32(places[here]) - first
            old = total[place]
            fresh = old == EMPTY
            touched[count] = place
            count += np.uint64(fresh)
            total[place] = (np.float32(0) if fresh else old) + weight * table[np.uint32(scores[here])]
    return count


add_postings = compiled(_add, inline="always")


def _first_from(values: Any, start: Any, stop: Any, bound: Any) -> Any:
    """Where the first of the ascending ``values[start:stop]`` that is not below ``bound`` stands."""
    while start < stop:
        middle = (start + stop) // np.uint64(2)
        if values[middle] < bound:
            start = middle + np.uint64(1)
        else:
            stop = middle
    return start


first_from = compiled(_first_from, cache=True)


def _place_of(ids: Any, wanted: Any) -> Any:
    """The place of an id, -1 where it is not there; at once where ids leave no gap before it."""
    guess = wanted - ids[0]
    if guess < 0:
        return -1
    if guess < len(ids) and ids[guess] == wanted:
        return guess
    at = first_from(ids, np.uint64(0), np.uint64(len(ids)), wanted)
    return np.int64(at) if at < len(ids) and ids[at] == wanted else -1


place_of = compiled(_place_of, cache=True)


def _best_first(scores: Any, places: Any, size: Any) -> None:
    """Sort a heap with the worst on top."""
    while size > 1:
        size -= 1
        scores[0], scores[size] = scores[size], scores[0]
        places[0], places[size] = places[size], places[0]
        sift(scores, places, size)


best_first = compiled(_best_first, cache=True)


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
    ids: Any,
    total: Any,
    touched: Any,
    best_scores: Any,
    best_ids: Any,
) -> Any:
    """Answer requests; returns the first code that is not there, -1 if all are."""
    users, width = codes.shape
    k, block, items = best_scores.shape[1], len(total), len(ids)
    for user in range(users):
        for at in range(width):
            if codes[user, at] >= len(offsets) - 1 or codes[user, at] < -1:
                return codes[user, at]
    cursor = np.empty(width, dtype=np.uint64)
    left_out = np.empty(exclude.shape[1], dtype=np.int64)
    for user in range(users):
        heap_scores, heap_places = best_scores[user], best_ids[user]
        size = 0
        for at in range(width):
            cursor[at] = offsets[codes[user, at]] if codes[user, at] >= 0 else 0
        for at in range(exclude.shape[1]):
            left_out[at] = place_of(ids, exclude[user, at])
        for first in range(0, items, block):
            last = min(first + block, items)
            count = np.uint64(0)
            for at in range(width):
                code = codes[user, at]
                if code < 0:
                    continue
                here, stop = cursor[at], np.uint64(offsets[code + 1])
                if last < items:
                    stop = first_from(places, here, stop, last)
                count = add_postings(
                    places,
                    scores,
                    table,
                    kind,
                    low[code],
                    step[code],
                    weights[user, at],
                    here,
                    stop,
                    np.uint32(first),
                    total,
                    touched,
                    count,
                )
                cursor[at] = stop
            for at in range(len(left_out)):
                if first <= left_out[at] < last:
                    total[left_out[at] - first] = EMPTY
            for at in range(count):
                place = touched[at]
                score = total[place]
                total[place] = EMPTY
                # Most sums are below the worst of the best, and are done with here.
                if score == EMPTY or (size == k and score < heap_scores[0]):
                    continue
                item = np.int64(place) + first
                if len(allowed) > 0 and not allowed[item]:
                    continue
                if size < k:
                    push(heap_scores, heap_places, size, score, item)
                    size += 1
                elif worse(heap_scores[0], heap_places[0], score, item):
                    heap_scores[0], heap_places[0] = score, item
                    sift(heap_scores, heap_places, size)
        best_first(heap_scores, heap_places, size)
        for at in range(size):
            heap_places[at] = ids[heap_places[at]]
    return -1


search = compiled(_search, cache=True, nogil=True)
