"""Compiled loops of a search in postings (numba): an accumulator in the cache, and a buffer of the best."""

from __future__ import annotations

from typing import Any

import numpy as np

from twotower.index.best_numba import compiled, key, room, score_of, select, write

EMPTY = np.float32(-np.inf)
"""What the sum of an untouched item is, so that listed items are told without a second array."""


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
    best = np.empty(room(k), dtype=np.int64)
    for user in range(users):
        size, bar = 0, EMPTY
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
                if score < bar or score == EMPTY:
                    continue
                item = np.int64(place) + first
                if len(allowed) > 0 and not allowed[item]:
                    continue
                best[size] = key(score, item)
                size += 1
                if size == len(best):
                    select(best, size, k)
                    size, bar = k, score_of(best[k - 1])
        write(best, size, ids, best_scores[user], best_ids[user])
    return -1


search = compiled(_search, cache=True, nogil=True)
