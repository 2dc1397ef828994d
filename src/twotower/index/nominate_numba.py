"""Compiled loops of nominating and ranking (numba): nearest codes, their lists once each, inner products, a heap."""

from __future__ import annotations

from typing import Any

import numpy as np

from twotower.index.postings_numba import best_first, compiled, place_of, push, sift, worse

REASSOCIATED = {"reassoc", "contract", "nsz"}
"""What sums of products may be: in any order, so that several are added at a time."""


def _dot(one: Any, other: Any) -> Any:
    total = np.float32(0)
    for at in range(len(one)):
        total += one[at] * other[at]
    return total


dot = compiled(_dot, fastmath=REASSOCIATED, cache=True)


def _nominate(
    users: Any,
    centres: Any,
    half: Any,
    nearest: Any,
    offsets: Any,
    places: Any,
    items: Any,
    ids: Any,
    exclude: Any,
    allowed: Any,
    listed: Any,
    touched: Any,
    best_scores: Any,
    best_ids: Any,
) -> None:
    """Answer users: ``half`` is half of each centre's squared length; ``listed`` is all 0, and is left so."""
    k = best_scores.shape[1]
    near_scores, near_codes = np.empty(nearest, dtype=np.float32), np.empty(nearest, dtype=np.int64)
    left_out = np.empty(exclude.shape[1], dtype=np.int64)
    for user in range(len(users)):
        vector, heap_scores, heap_places = users[user], best_scores[user], best_ids[user]
        chosen = 0
        for code in range(len(centres)):
            score = dot(vector, centres[code]) - half[code]
            if chosen < nearest:
                push(near_scores, near_codes, chosen, score, np.int64(code))
                chosen += 1
            elif score > near_scores[0]:
                near_scores[0], near_codes[0] = score, code
                sift(near_scores, near_codes, chosen)
        for at in range(len(left_out)):
            left_out[at] = place_of(ids, exclude[user, at])
            if left_out[at] >= 0:
                listed[left_out[at]] = 1
        count = np.uint64(0)
        for at in range(chosen):
            code = near_codes[at]
            for here in range(np.uint64(offsets[code]), np.uint64(offsets[code + 1])):
                place = np.uint32(places[here])
                touched[count] = place
                count += np.uint64(listed[place] == 0)
                listed[place] = 1
        size = 0
        for at in range(count):
            place = touched[at]
            listed[place] = 0
            if len(allowed) > 0 and not allowed[place]:
                continue
            score = dot(vector, items[place])
            if size < k:
                push(heap_scores, heap_places, size, score, np.int64(place))
                size += 1
            elif worse(heap_scores[0], heap_places[0], score, np.int64(place)):
                heap_scores[0], heap_places[0] = score, np.int64(place)
                sift(heap_scores, heap_places, size)
        for at in range(len(left_out)):
            if left_out[at] >= 0:
                listed[left_out[at]] = 0
        best_first(heap_scores, heap_places, size)
        for at in range(size):
            heap_places[at] = ids[heap_places[at]]


nominate = compiled(_nominate, cache=True, nogil=True)
