"""HNSW (hierarchical navigable small world, Malkov and Yashunin 2018): approximate search through a neighbour graph."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twotower.index.approximate import ApproximateIndex
from twotower.index.engine import engine

log = logging.getLogger(__name__)


class HNSWIndex(ApproximateIndex):
    """Search a graph of near neighbours from the top layer down: quick to search, slow to build.

    Args:
        m: links an item has in each layer (twice as many in the lowest).
        ef_construction: candidates kept while an item is put in.
        ef_search: candidates kept while a user is answered.
    """

    effort = "ef_search"
    least_effort = 8
    least = {"m": 2}  # noqa: RUF012

    def __init__(self, *, m: int = 16, ef_construction: int = 100, ef_search: int = 64) -> None:
        super().__init__({"m": m, "ef_construction": ef_construction, "ef_search": ef_search})

    def _made(self, vectors: NDArray[np.float32]) -> Any:
        faiss = engine()
        links = min(self._settings["m"], max(len(vectors) - 1, 2))
        if links < self._settings["m"]:
            log.warning("index.m = %d for %d items: %d links are used", self._settings["m"], len(vectors), links)
        structure = faiss.IndexHNSWFlat(vectors.shape[1], links, faiss.METRIC_INNER_PRODUCT)
        structure.hnsw.efConstruction = self._settings["ef_construction"]
        structure.add(vectors)
        return structure

    def _parameters(self, effort: int) -> Any:
        faiss = engine()
        return faiss.SearchParametersHNSW(efSearch=effort)

    def _widened(self, effort: int, excluded: int) -> int:
        return effort + excluded

    def _most(self) -> int:
        return max(self.least_effort, len(self._ids) // 4)
