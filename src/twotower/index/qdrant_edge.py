"""Qdrant in the process: the engine of its server as a library (``qdrant-edge-py``, beta: pinned)."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twotower.core.conditions import Condition
from twotower.core.errors import InputError
from twotower.index.abilities import ItemColumn
from twotower.index.qdrant_filters import SCHEMAS, filter_of, payload, takes
from twotower.index.store import StoreIndex
from twotower.index.store_answers import Scored, Where

SHARD = "shard"
SCANNED = 1_000
"""KB of vectors that may come back below which Qdrant scores all of them."""


class QdrantEdgeIndex(StoreIndex):
    """Search Qdrant's graph in this process, with filters on item columns inside it.

    The shard lies in a folder of its own while it is used: one that comes from a bundle is copied there first, since
    the engine writes beside what it reads.

    Args:
        m: links an item has in each layer of the graph.
        ef_construction: candidates kept while an item is put in.
        ef_search: candidates kept while a user is answered.
        columns: item columns with a payload index, with commas between: filters on others go as lists of ids.
    """

    def __init__(self, *, m: int = 16, ef_construction: int = 100, ef_search: int = 64, columns: str = "") -> None:
        if importlib.util.find_spec("qdrant_edge") is None:
            raise InputError("index 'qdrant_edge': not installed; pip install 'twotower[qdrant]'")
        settings = {"m": m, "ef_construction": ef_construction, "ef_search": ef_search, "columns": columns}
        super().__init__(settings, columns)
        import qdrant_edge

        self._engine: Any = qdrant_edge
        self._shard: Any = None
        self._folder = Path()

    def _create(self, dim: int) -> None:
        edge, own = self._engine, self._settings
        graph = edge.HnswIndexConfig(
            m=own["m"],
            ef_construct=own["ef_construction"],
            full_scan_threshold=SCANNED,
            max_indexing_threads=1,
        )
        config = edge.EdgeConfig(
            vectors=edge.EdgeVectorParams(size=dim, distance=edge.Distance.Dot, hnsw_config=graph),
            optimizers=edge.EdgeOptimizersConfig(default_segment_number=1, indexing_threshold=SCANNED),
            max_search_threads=1,
            wal_enabled=False,  # a copy of its own, which is flushed before it is kept
        )
        self._hold(edge.EdgeShard.create(str(self._own_folder()), config))

    def _put(self, ids: list[int], vectors: NDArray[np.float32]) -> None:
        edge = self._engine
        points = [edge.Point(id, vector) for id, vector in zip(ids, vectors.tolist(), strict=True)]
        self._shard.update(edge.UpdateOperation.upsert_points(points))

    def _finish(self) -> None:
        self._shard.optimize()

    def _drop(self, ids: list[int]) -> None:
        self._shard.update(self._engine.UpdateOperation.delete_points(ids))

    def _fill(self, ids: list[int], columns: Mapping[int, ItemColumn]) -> None:
        edge = self._engine
        for place, column in columns.items():
            schema = getattr(edge.PayloadSchemaType, SCHEMAS[column.kind].capitalize())
            self._shard.update(edge.UpdateOperation.create_field_index(f"c{place}", schema))
        for at, id in enumerate(ids):
            self._shard.update(edge.UpdateOperation.overwrite_payload([id], payload(columns, at)))
        self._shard.optimize()

    def _takes(self, condition: Condition, kinds: Mapping[str, tuple[str, bool]]) -> bool:
        return takes(condition, kinds)

    def _ask(self, query: list[float], k: int, where: Where) -> Scored:
        edge = self._engine
        given = filter_of(where, self._names, self._kinds)
        asked = edge.QueryRequest(
            limit=k,
            query=edge.Query.Nearest(query),
            filter=None if given is None else self._condition(given),
            params=edge.SearchParams(hnsw_ef=max(self._settings["ef_search"], k), exact=where.exact),
        )
        return [(int(point.id), float(point.score)) for point in self._shard.query(asked)]

    def _condition(self, given: Mapping[str, Any]) -> Any:
        """The objects of the library for a filter in dictionaries."""
        edge = self._engine
        if "has_id" in given:
            return edge.HasIdCondition(set(given["has_id"]))
        if "key" not in given:
            return edge.Filter(**{name: [self._condition(part) for part in parts] for name, parts in given.items()})
        if "match" in given:
            match = given["match"]
            found = edge.MatchAny(match["any"]) if "any" in match else edge.MatchValue(match["value"])
            return edge.FieldCondition(given["key"], match=found)
        bounds = given["range"]
        of_times = any(isinstance(value, str) for value in bounds.values())
        return edge.FieldCondition(given["key"], range=(edge.RangeDateTime if of_times else edge.RangeFloat)(**bounds))

    def _keep(self, folder: Path) -> dict[str, Any]:
        self._shard.flush()
        shutil.rmtree(folder / SHARD, ignore_errors=True)
        shutil.copytree(self._folder, folder / SHARD)
        return {"engine": "qdrant-edge"}

    def _find(self, folder: Path, note: Mapping[str, Any]) -> None:
        if not (folder / SHARD).is_dir():
            raise InputError(f"{folder / SHARD}: no such folder, so this folder holds no whole index")
        own = self._own_folder()
        shutil.copytree(folder / SHARD, own, dirs_exist_ok=True)
        try:
            self._hold(self._engine.EdgeShard.load(str(own)))
        except Exception as error:  # the library has no class of its own for what it cannot read
            why = " ".join(str(error).split())[:200]
            raise InputError(f"{folder / SHARD}: not a shard that this version of qdrant-edge reads ({why})") from None

    def _own_folder(self) -> Path:
        self._folder = Path(tempfile.mkdtemp(prefix="twotower-qdrant-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder

    def _hold(self, shard: Any) -> None:
        if self._shard is not None:
            self._shard.close()
        self._shard = shard
        weakref.finalize(self, shard.close)
