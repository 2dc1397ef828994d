"""Lists of codes in Qdrant as sparse vectors: its engine in this process, and a server by address."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
import uuid
import weakref
from pathlib import Path
from typing import Any

from twotower.core.errors import InputError
from twotower.core.records import State
from twotower.index.address import address_of
from twotower.index.base import ScoringModel
from twotower.index.postings import Postings
from twotower.index.postings_sparse import SparseItem
from twotower.index.postings_store import PostingsStore
from twotower.index.qdrant_server import QdrantIndex, say
from twotower.index.store_answers import Scored

VECTOR = "codes"
"""Name of the sparse vector of each point."""


class PostingsQdrantEdgeIndex(PostingsStore):
    """Sum the lists of a user's codes by Qdrant's engine in this process (``qdrant-edge-py``): see `PostingsStore`.

    The engine's folder is a temporary one, made of the lists when a bundle is loaded.

    Args:
        model: whose lists are searched.
        longest: items of a list, at most; 0: by the number of items.
        precision: of stored scores: "float32", "float16" or "uint8".
        above: only scores above it are listed.
    """

    def __init__(
        self, model: ScoringModel, *, longest: int = 0, precision: str = "float16", above: float = 0.0
    ) -> None:
        if importlib.util.find_spec("qdrant_edge") is None:
            raise InputError("index 'postings_qdrant_edge': not installed; pip install 'twotower[qdrant]'")
        super().__init__(model, longest=longest, precision=precision, above=above)
        import qdrant_edge

        self._engine: Any = qdrant_edge
        self._shard: Any = None

    def _create(self) -> None:
        edge = self._engine
        folder = Path(tempfile.mkdtemp(prefix="twotower-qdrant-"))
        config = edge.EdgeConfig(sparse_vectors={VECTOR: edge.EdgeSparseVectorParams()}, wal_enabled=False)
        if self._shard is not None:
            self._shard.close()
        self._shard = edge.EdgeShard.create(str(folder), config)
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        weakref.finalize(self, self._shard.close)

    def _put(self, items: list[SparseItem]) -> None:
        edge = self._engine
        points = [
            edge.Point(item.id, {VECTOR: edge.SparseVector(item.codes.tolist(), item.scores.tolist())})
            for item in items
        ]
        self._shard.update(edge.UpdateOperation.upsert_points(points))

    def _drop(self, ids: list[int]) -> None:
        self._shard.update(self._engine.UpdateOperation.delete_points(ids))

    def _ask(self, codes: list[int], weights: list[float], k: int, among: list[int] | None, but: list[int]) -> Scored:
        edge = self._engine
        parts: dict[str, Any] = {}
        if among is not None:
            parts["must"] = [edge.HasIdCondition(set(among))]
        if but:
            parts["must_not"] = [edge.HasIdCondition(set(but))]
        query = edge.Query.Nearest(edge.SparseVector(codes, weights), using=VECTOR)
        asked = edge.QueryRequest(limit=k, query=query, filter=edge.Filter(**parts) if parts else None)
        return [(int(point.id), float(point.score)) for point in self._shard.query(asked)]


class PostingsQdrantIndex(PostingsStore):
    """Sum the lists of a user's codes by a Qdrant server: see `PostingsStore`, and `QdrantIndex` for address and names.

    Args:
        model: whose lists are searched.
        longest: items of a list, at most; 0: by the number of items.
        precision: of stored scores: "float32", "float16" or "uint8".
        above: only scores above it are listed.
        collection: first part of the collection's name.
    """

    def __init__(
        self,
        model: ScoringModel,
        *,
        longest: int = 0,
        precision: str = "float16",
        above: float = 0.0,
        collection: str = "twotower",
    ) -> None:
        if importlib.util.find_spec("qdrant_client") is None:
            raise InputError("index 'postings_qdrant': not installed; pip install 'twotower[qdrant]'")
        super().__init__(model, longest=longest, precision=precision, above=above)
        self._prefix, self._name = collection, ""

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings it was called with beside the model, defaults included."""
        return super().settings | {"collection": self._prefix}

    @property
    def collection(self) -> str:
        """Return the name of its collection; empty before it is built."""
        return self._name

    @classmethod
    def delete_collection(cls, name: str) -> bool:
        """Delete a collection, and return whether it was there.

        Raises:
            UnavailableError: if the server does not answer.
            InputError: if it refuses.
        """
        return QdrantIndex.delete_collection(name)

    def ping(self) -> None:
        """Return when the server answers and has the collection.

        Raises:
            UnavailableError: if the server does not answer.
            InputError: if it refuses the token, or does not have the collection.
        """
        if not say(lambda client: client.collection_exists(self._name)):
            raise InputError(f"{address_of('qdrant').shown} does not have collection '{self._name}'")

    def _create(self) -> None:
        models = _models()
        self._name = f"{self._prefix}-{uuid.uuid4().hex[:12]}"
        vectors = {VECTOR: models.SparseVectorParams()}
        say(lambda client: client.create_collection(self._name, vectors_config={}, sparse_vectors_config=vectors))

    def _put(self, items: list[SparseItem]) -> None:
        models = _models()
        points = [
            models.PointStruct(
                id=item.id,
                vector={VECTOR: models.SparseVector(indices=item.codes.tolist(), values=item.scores.tolist())},
            )
            for item in items
        ]
        say(lambda client: client.upsert(self._name, points))

    def _drop(self, ids: list[int]) -> None:
        say(lambda client: client.delete(self._name, ids))

    def _ask(self, codes: list[int], weights: list[float], k: int, among: list[int] | None, but: list[int]) -> Scored:
        models = _models()
        parts: dict[str, Any] = {}
        if among is not None:
            parts["must"] = [models.HasIdCondition(has_id=among)]
        if but:
            parts["must_not"] = [models.HasIdCondition(has_id=but)]
        found = say(
            lambda client: client.query_points(
                self._name,
                query=models.SparseVector(indices=codes, values=weights),
                using=VECTOR,
                limit=k,
                query_filter=models.Filter(**parts) if parts else None,
                with_payload=False,
            )
        )
        return [(int(point.id), float(point.score)) for point in found.points]

    def _more(self) -> dict[str, Any]:
        return {"kept": {"collection": self._name}}

    def _restore(self, lists: Postings, states: State, note: dict[str, Any]) -> None:
        """Take the collection as it is, once it is seen to have the items."""
        self._name = str(note["kept"]["collection"])
        there = say(lambda client: client.collection_exists(self._name))
        number = say(lambda client: client.count(self._name, exact=True).count) if there else 0
        self._stored = self._points(lists)
        if number < len(self._stored):
            has = f"has {number:,} of its {len(self._stored):,} items" if there else "does not have it"
            raise InputError(
                f"the index is collection '{self._name}', and {address_of('qdrant').shown} {has}; build it there: "
                "twotower index BUNDLE --kind postings_qdrant"
            )
        self._lists = lists  # what is stored already is not sent again
        self._hold(lists, states)


def _models() -> Any:
    from qdrant_client import models

    return models
