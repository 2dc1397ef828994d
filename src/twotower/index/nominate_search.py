"""Nominating and ranking by compiled loops: the arrays that they read, and a call that costs little of its own."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from twotower.core.records import TopK
from twotower.index.postings import Postings

_ALL: NDArray[np.bool_] = np.zeros(0, dtype=np.bool_)
_kept = threading.local()


@dataclass(eq=False)
class Ready:
    """Hold lists, centres and item vectors as the loops read them: vectors float32, one row an item or a centre."""

    lists: Postings
    centres: NDArray[np.float32]
    half: NDArray[np.float32]
    items: NDArray[np.float32]
    nearest: int = 1

    @staticmethod
    def of(lists: Postings, centres: Tensor, items: Tensor) -> Ready:
        """Return them in compiled form; what is stored by rows already is not copied."""
        rows = np.ascontiguousarray(centres.numpy(), dtype=np.float32)
        return Ready(lists, rows, np.square(rows).sum(1) / np.float32(2), np.ascontiguousarray(items.numpy()))

    def search(self, users: Tensor, k: int, exclude: Tensor | None, allowed: Tensor | None) -> TopK:
        """Return the best ``k`` nominated items a user: see `twotower.index.nominate.Nominate.search`."""
        # On small lists this function itself would take as long as the search: a tensor's length costs a microsecond.
        count = users.shape[0]
        scores, ids = np.empty((count, k), dtype=np.float32), np.empty((count, k), dtype=np.int64)
        left_out = np.empty((count, 0), dtype=np.int64) if exclude is None else np.ascontiguousarray(exclude.numpy())
        _compiled()(
            np.ascontiguousarray((users.detach() if users.requires_grad else users).numpy()),
            self.centres,
            self.half,
            self.nearest,
            self.lists.offsets,
            self.lists.places,
            self.items,
            self.lists.ids,
            left_out,
            _ALL if allowed is None else np.ascontiguousarray(allowed.numpy()),
            *_marks(len(self.items)),
            scores,
            ids,
        )
        return TopK(torch.from_numpy(scores), torch.from_numpy(ids))


@functools.cache
def _compiled() -> Callable[..., Any]:
    """The loops as machine code; the first call compiles them."""
    from twotower.index.nominate_numba import nominate

    return nominate


def _marks(items: int) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    """This thread's marks of listed items, all 0, and room for their places: every search leaves them so."""
    kept: tuple[NDArray[np.uint8], NDArray[np.uint32]] | None = getattr(_kept, "marks", None)
    if kept is None or len(kept[0]) != items:
        kept = _kept.marks = np.zeros(items, dtype=np.uint8), np.empty(items + 1, dtype=np.uint32)
    return kept
