"""Postings as sparse vectors, an item each: what a vector store with inverted lists takes them as."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twotower.index.postings import Postings


class SparseItem(NamedTuple):
    """Hold an item's id, the codes whose lists have it (ascending), and its score in each."""

    id: int
    codes: NDArray[np.int64]
    scores: NDArray[np.float32]


def sparse_items(postings: Postings) -> Iterator[SparseItem]:
    """Yield each item that is in a list as a sparse vector over codes, in the order of ids.

    The inner product with a request's weights, those of a code that comes twice added up, is what `search_postings`
    sums. Scores that are stored in fewer bytes come as float32.

    Examples:
        >>> import torch
        >>> from twotower.index.postings import build_postings
        >>> table = torch.tensor([[3.0, 1.0], [0.5, 2.0]])
        >>> lists = build_postings(lambda codes, items: table[codes, items].clone(), 2, torch.tensor([7, 9]), longest=1)
        >>> [(item.id, item.codes.tolist(), item.scores.tolist()) for item in sparse_items(lists)]
        [(7, [0], [3.0]), (9, [1], [2.0])]
    """
    scores = [postings.values(code) for code in range(postings.num_codes)]
    values = np.concatenate(scores) if scores else np.zeros(0, dtype=np.float32)
    codes = np.repeat(np.arange(postings.num_codes), postings.lengths)
    order = np.argsort(postings.places, kind="stable")  # codes ascend within an item, as they did before
    places, codes, values = np.asarray(postings.places)[order], codes[order], values[order]
    starts = np.searchsorted(places, np.arange(len(postings.ids) + 1))
    for place, (start, stop) in enumerate(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)):
        if start < stop:
            yield SparseItem(int(postings.ids[place]), codes[start:stop], values[start:stop])
