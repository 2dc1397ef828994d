"""Compiled loops of nominating and ranking (numba): nearest codes, their lists once each, inner products, the best."""

from __future__ import annotations

from typing import Any

import numpy as np

from twotower.index.best_numba import LEAST, compiled, key, place_in, room, select, write
from twotower.index.postings_numba import place_of
from twotower.index.prefetch_numba import ask_for_row

REASSOCIATED = {"reassoc", "contract", "nsz"}
"""What sums of products may be: in any order, so that several are added at a time."""
AHEAD = np.uint64(16)
"""Candidates whose vectors are on their way while one is scored."""


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
    near = np.empty(nearest, dtype=np.int64)
    left_out = np.empty(exclude.shape[1], dtype=np.int64)
    best = np.empty(room(k), dtype=np.int64)
    flat, width = items.reshape(-1), items.shape[1]
    for user in range(len(users)):
        vector = users[user]
        near[:] = LEAST
        for code in range(len(centres)):
            one = key(dot(vector, centres[code]) - half[code], code)
            if one > near[nearest - 1]:
                at = nearest - 1
                while at > 0 and near[at - 1] < one:
                    near[at] = near[at - 1]
                    at -= 1
                near[at] = one
        for at in range(len(left_out)):
            left_out[at] = place_of(ids, exclude[user, at])
            if left_out[at] >= 0:
                listed[left_out[at]] = 1
        count = np.uint64(0)
        for at in range(nearest):
            code = place_in(near[at])
            for here in range(np.uint64(offsets[code]), np.uint64(offsets[code + 1])):
                place = np.uint32(places[here])
                touched[count] = place
                count += np.uint64(listed[place] == 0)
                listed[place] = 1
        size, least = 0, LEAST
        for at in range(count):
            if at + AHEAD < count:
                ask_for_row(flat, np.int64(touched[at + AHEAD]), width)
            place = touched[at]
            listed[place] = 0
            if len(allowed) > 0 and not allowed[place]:
                continue
            one = key(dot(vector, items[place]), place)
            if one > least:
                best[size] = one
                size += 1
                if size == len(best):
                    select(best, size, k)
                    size, least = k, best[k - 1]
        for at in range(len(left_out)):
            if left_out[at] >= 0:
                listed[left_out[at]] = 0
        write(best, size, ids, best_scores[user], best_ids[user])


nominate = compiled(_nominate, cache=True, nogil=True)
