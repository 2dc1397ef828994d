"""Milvus by address: a server or cluster, a collection for each index."""

from __future__ import annotations

import functools
import importlib.util
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from twotower.core.conditions import Condition
from twotower.core.errors import InputError
from twotower.index.abilities import ItemColumn
from twotower.index.address import Address, address_of, patiently
from twotower.index.store import StoreIndex
from twotower.index.store_answers import Scored, Where

T = TypeVar("T")

SECONDS = 10
"""Within which the server has to answer."""
WIDEST = 4096
"""Candidates kept where the graph is to miss nothing: Milvus has no exact search beside an HNSW index."""


class MilvusIndex(StoreIndex):
    """Search a Milvus server.

    The address stands in the environment: ``TWOTOWER_MILVUS_URL``, with ``TWOTOWER_MILVUS_TOKEN`` or
    ``TWOTOWER_MILVUS_TOKEN_FILE``. A build makes a new collection; a bundle names it, and no address. Filters go as
    lists of ids: an item's columns cannot be stored after its vector without sending that again.

    Args:
        m: links an item has in each layer of the graph.
        ef_construction: candidates kept while an item is put in.
        ef_search: candidates kept while a user is answered.
        collection: first part of the collection's name: letters, digits and underscores.
    """

    def __init__(
        self, *, m: int = 16, ef_construction: int = 100, ef_search: int = 64, collection: str = "twotower"
    ) -> None:
        if importlib.util.find_spec("pymilvus") is None:
            raise InputError("index 'milvus': not installed; pip install 'twotower[milvus]'")
        if not collection.isidentifier() or not collection.isascii():
            raise InputError("index.collection: letters, digits and underscores are wanted, and no digit first")
        settings = {"m": m, "ef_construction": ef_construction, "ef_search": ef_search, "collection": collection}
        super().__init__(settings, "")
        self._name = ""

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
        there: bool = cls._say(lambda client: client.has_collection(name))
        if there:
            cls._say(lambda client: client.drop_collection(name))
        return there

    def _create(self, dim: int) -> None:
        self._name = f"{self._settings['collection']}_{uuid.uuid4().hex[:12]}"
        self._say(functools.partial(_make, name=self._name, dim=dim, settings=self._settings))

    def _put(self, ids: list[int], vectors: NDArray[np.float32]) -> None:
        rows = [{"id": id, "vector": vector} for id, vector in zip(ids, vectors.tolist(), strict=True)]
        self._say(lambda client: client.upsert(self._name, rows))

    def _finish(self) -> None:
        """Write what was put, and load it: Milvus searches an index only after that."""
        self._say(lambda client: client.flush(self._name))
        self._say(lambda client: client.load_collection(self._name))

    def _drop(self, ids: list[int]) -> None:
        self._say(lambda client: client.delete(self._name, ids=ids))

    def _fill(self, ids: list[int], columns: Mapping[int, ItemColumn]) -> None:
        """Take none: it wants no columns."""

    def _takes(self, condition: Condition, kinds: Mapping[str, tuple[str, bool]]) -> bool:
        return False

    def _ask(self, query: list[float], k: int, where: Where) -> Scored:
        parts = [] if where.among is None else [f"id in {list(map(int, where.among))}"]
        if where.without:
            parts.append(f"id not in {list(map(int, where.without))}")
        effort = max(WIDEST if where.exact else self._settings["ef_search"], k)
        found = self._say(
            lambda client: client.search(
                self._name,
                data=[query],
                filter=" and ".join(parts),
                limit=k,
                search_params={"metric_type": "IP", "params": {"ef": effort}},
            )
        )
        return [(int(hit["id"]), float(hit["distance"])) for hit in found[0]]

    def _keep(self, folder: Path) -> dict[str, Any]:
        return {"collection": self._name}

    def _find(self, folder: Path, note: Mapping[str, Any]) -> None:
        self._name = str(note["collection"])
        if not self._say(lambda client: client.has_collection(self._name)):
            raise InputError(
                f"{folder}: the index is collection '{self._name}', and {address_of('milvus').shown} does not have it; "
                "build it there: twotower index BUNDLE --kind milvus"
            )
        self._say(lambda client: client.load_collection(self._name))

    def ping(self) -> None:
        """Return when the server answers and has the collection.

        Raises:
            UnavailableError: if the server does not answer.
            InputError: if it does not have the collection.
        """
        if not self._say(lambda client: client.has_collection(self._name)):
            raise InputError(f"{address_of('milvus').shown} does not have collection '{self._name}'")

    @staticmethod
    def _say(call: Callable[[Any], T]) -> T:
        address = address_of("milvus")
        from pymilvus.exceptions import MilvusException

        try:
            return patiently(address, lambda: call(connected(address)), _passing)
        except MilvusException as error:
            why = " ".join(str(error).split())[:200]
            raise InputError(f"{address.shown} refuses a request ({why})") from None


@functools.lru_cache(maxsize=4)
def connected(address: Address) -> Any:
    """Return the client of an address, one for the whole process."""
    from pymilvus import MilvusClient

    return MilvusClient(address.url, token=address.token or "", timeout=SECONDS)


def _make(client: Any, *, name: str, dim: int, settings: Mapping[str, Any]) -> None:
    from pymilvus import DataType

    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
    graph = client.prepare_index_params()
    params = {"M": settings["m"], "efConstruction": settings["ef_construction"]}
    graph.add_index("vector", index_type="HNSW", metric_type="IP", params=params)
    client.create_collection(name, schema=schema, index_params=graph, consistency_level="Strong")


def _passing(error: Exception) -> str | None:
    """What may be gone at another try: the client has one class for all, and tells them apart in words."""
    from pymilvus.exceptions import MilvusException

    if not isinstance(error, MilvusException):
        return None
    text = str(error).lower()
    return "no connection" if "connect" in text or "unavailable" in text else None
