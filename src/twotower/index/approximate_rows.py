"""Rows of a FAISS index: the structure, and beside it ids, removed rows and the float32 vectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import State, TopK
from twotower.index.checks import nothing
from twotower.index.engine import engine, one_thread
from twotower.index.exact import ExactIndex

MOST_DEAD = 0.25
"""Share of removed rows at which the structure is built anew."""


class Rows(ABC):
    """Hold rows in the order in which they came, and what a scan of their vectors finds."""

    _vectors: NDArray[np.float32]
    _ids: Tensor
    _alive: Tensor
    """Replaced by every change, and never changed in place."""
    _counted: tuple[Tensor, int]
    """An ``_alive``, and how many rows it has."""
    _built: int
    _mapped: bool
    _structure: Any
    _by_id: tuple[Tensor, Tensor] | None
    _unfiltered: dict[int, Any]
    """Parameters of the latest unfiltered search, by effort: to make them costs as much as scoring what it finds."""

    @abstractmethod
    def __len__(self) -> int:
        """Return how many items there are."""

    @abstractmethod
    def _made(self, vectors: NDArray[np.float32]) -> Any:
        """Return a FAISS structure that holds ``vectors``, of which there is at least one."""

    def _hold(self, vectors: NDArray[np.float32], ids: Tensor, structure: Any) -> None:
        self._vectors, self._ids, self._structure = vectors, ids, structure
        self._alive = torch.ones(len(ids), dtype=torch.bool)
        self._counted = self._alive, len(ids)
        self._built, self._mapped = len(ids), False
        self._by_id, self._unfiltered = None, {}

    def _build(self, vectors: NDArray[np.float32], ids: Tensor) -> None:
        with one_thread():
            self._hold(vectors, ids, self._made(vectors) if len(ids) else None)

    def _living(self) -> tuple[NDArray[np.float32], Tensor]:
        """Return the vectors and ids that are left, by id."""
        rows = self._alive.nonzero()[:, 0]
        rows = rows[self._ids[rows].argsort()]
        return self._vectors[rows.numpy()], self._ids[rows]

    def _tidied(self) -> bool:
        return len(self._ids) - len(self) <= MOST_DEAD * len(self._ids)

    def _writable(self) -> Any:
        """Return the structure, copied into memory first if it is mapped from a file."""
        faiss = engine()
        if self._mapped:
            self._structure = faiss.deserialize_index(faiss.serialize_index(self._structure))
            self._mapped = False
        return self._structure

    def _rows_of(self, ids: Tensor) -> Tensor:
        """Return the living rows of those ids that are there."""
        if self._by_id is None:
            rows = self._alive.nonzero()[:, 0]
            self._by_id = self._ids[rows].sort()[0], rows[self._ids[rows].argsort()]
        known, rows = self._by_id
        places = torch.searchsorted(known, ids.contiguous()).clamp(max=len(known) - 1)
        return rows[places[known[places] == ids]]

    def _check_width(self, vectors: NDArray[np.float32], side: str) -> None:
        if vectors.shape[1] != self._vectors.shape[1]:
            raise InputError(
                f"index: {side} vectors of {vectors.shape[1]} numbers, but it holds vectors of {self._vectors.shape[1]}"
            )

    def _scored(self, queries: NDArray[np.float32], rows: NDArray[np.int64], k: int) -> tuple[Tensor, Tensor]:
        """Return the best ``k`` of the rows by the stored vectors; equal scores: the lower id first."""
        absent = torch.from_numpy(rows < 0)
        products = torch.from_numpy(inner_products(self._vectors[rows.clip(min=0)], queries))
        scores = products.masked_fill(absent, -torch.inf)
        ids = self._ids[torch.from_numpy(rows.clip(min=0))].masked_fill(absent, -1)
        order = torch.from_numpy(np.lexsort((ids.numpy(), -scores.numpy()), axis=-1))[:, :k]
        best, named = nothing(len(queries), k, torch.device("cpu"))
        best[:, : order.shape[1]] = scores.gather(1, order)
        named[:, : order.shape[1]] = ids.gather(1, order)
        return best, named

    def _scan(self, queries: NDArray[np.float32], mask: Tensor, k: int, exclude: Tensor | None) -> TopK:
        exact = ExactIndex()
        exact.build(torch.from_numpy(np.ascontiguousarray(self._vectors[mask.numpy()])), self._ids[mask])
        return exact.search(torch.from_numpy(queries), k, exclude)


def plain_vectors(states: State, side: str) -> NDArray[np.float32]:
    """Return states as float32 on the CPU.

    Raises:
        InputError: if they are no finite vectors.
    """
    if not isinstance(states, Tensor) or states.ndim != 2:
        raise InputError(f"index: {side} states must be vectors, one list of numbers each: this kind finds no others")
    vectors = np.ascontiguousarray(states.detach().float().cpu().numpy())
    if not np.isfinite(vectors).all():
        raise InputError(f"index: {side} vectors hold NaN or inf; nothing can be found by them")
    return vectors


def inner_products(vectors: NDArray[np.float32], queries: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return ⟨vector, query⟩ of each user's vectors, [users, n]: to the last bit the same beside any others."""
    return np.einsum("und,ud->un", vectors, queries)
