"""IVF (inverted file): approximate search through lists about centroids, with whole vectors or 4-bit codes."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twotower.index.approximate import ApproximateIndex
from twotower.index.engine import engine

log = logging.getLogger(__name__)

POINTS = 8
"""Least items a list, on average: more lists than that are not made."""
WIDER = 4
"""Lists probed beside, as a multiple of those that the excluded items would fill (measured: recall 0.95 and more)."""
CODES = 16
"""Centroids of a 4-bit code."""


class IVFFlatIndex(ApproximateIndex):
    """Search lists about centroids, of which the nearest few are scanned: quick to build; with all lists, exact.

    Args:
        nlist: lists; 0: four times the square root of the number of items.
        nprobe: lists that are scanned for a user.
    """

    effort = "nprobe"
    least = {"nlist": 0, "subvectors": 0}  # noqa: RUF012

    def __init__(self, *, nlist: int = 0, nprobe: int = 16) -> None:
        super().__init__({"nlist": nlist, "nprobe": nprobe})

    def _made(self, vectors: NDArray[np.float32]) -> Any:
        faiss = engine()
        wanted, most = self._settings["nlist"], max(len(vectors) // POINTS, 1)
        lists = min(wanted or math.ceil(4 * math.sqrt(len(vectors))), most)
        if lists < wanted:
            log.warning("index.nlist = %d for %d items: %d lists are made", wanted, len(vectors), lists)
        name = f"IVF{lists},{self._coding(vectors.shape[1])}"
        structure = faiss.index_factory(vectors.shape[1], name, faiss.METRIC_INNER_PRODUCT)
        structure.cp.min_points_per_centroid = 1  # a small catalogue is no fault
        if hasattr(structure, "pq"):
            structure.pq.cp.min_points_per_centroid = 1
        structure.train(np.resize(vectors, (max(len(vectors), CODES), vectors.shape[1])))
        structure.add(vectors)
        return structure

    def _coding(self, dim: int) -> str:
        """Return FAISS's name for how a list holds its vectors."""
        return "Flat"

    def _parameters(self, effort: int) -> Any:
        faiss = engine()
        return faiss.SearchParametersIVF(nprobe=effort)

    def _widened(self, effort: int, excluded: int) -> int:
        return effort + math.ceil(WIDER * excluded * self._structure.nlist / len(self._ids))

    def _most(self) -> int:
        return int(self._structure.nlist)


class IVFPQIndex(IVFFlatIndex):
    """Search lists about centroids, stored as 4-bit codes scanned with SIMD; the best are scored by whole vectors.

    Args:
        nlist: lists; 0: four times the square root of the number of items.
        nprobe: lists that are scanned for a user.
        subvectors: parts of a vector, each one code of 4 bits; 0: one for every two numbers.
        rerank: for each answer, this many of the best codes are scored by their stored vectors.
    """

    def __init__(self, *, nlist: int = 0, nprobe: int = 16, subvectors: int = 0, rerank: int = 10) -> None:
        settings = {"nlist": nlist, "nprobe": nprobe, "subvectors": subvectors, "rerank": rerank}
        ApproximateIndex.__init__(self, settings)

    def _coding(self, dim: int) -> str:
        wanted = self._settings["subvectors"]
        parts = wanted or (dim // 2 if dim % 2 == 0 else dim)
        while dim % parts:
            parts -= 1
        if wanted and parts < wanted:
            log.warning("index.subvectors = %d does not divide %d numbers: %d are used", wanted, dim, parts)
        return f"PQ{parts}x4fs"

    def _fetched(self, k: int, excluded: int) -> int:
        more = excluded if self._settings["rerank"] > 1 else 0  # deep down, near scores are hard to tell apart by code
        return k * self._settings["rerank"] + 2 * more
