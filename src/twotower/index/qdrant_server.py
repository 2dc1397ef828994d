"""Qdrant by address: a server or cluster that holds the items of many bundles, a collection for each index."""

from __future__ import annotations

import atexit
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
from twotower.index.qdrant_filters import SCHEMAS, filter_of, payload, takes
from twotower.index.store import StoreIndex
from twotower.index.store_answers import BATCH, Scored, Where

T = TypeVar("T")

SECONDS = 10
"""Within which the server has to answer."""


class QdrantIndex(StoreIndex):
    """Search a Qdrant server, with filters on item columns inside it.

    The address stands in the environment: ``TWOTOWER_QDRANT_URL``, with ``TWOTOWER_QDRANT_TOKEN`` or
    ``TWOTOWER_QDRANT_TOKEN_FILE``. A build makes a new collection, so that a bundle that is still served keeps its own;
    a bundle names its collection, and no address. Items that are added or removed are so for all who use the
    collection. A collection goes by `delete_collection` alone.

    Args:
        m: links an item has in each layer of the graph.
        ef_construction: candidates kept while an item is put in.
        ef_search: candidates kept while a user is answered.
        columns: item columns with a payload index, with commas between: filters on others go as lists of ids.
        collection: first part of the collection's name.
    """

    def __init__(
        self,
        *,
        m: int = 16,
        ef_construction: int = 100,
        ef_search: int = 64,
        columns: str = "",
        collection: str = "twotower",
    ) -> None:
        if importlib.util.find_spec("qdrant_client") is None:
            raise InputError("index 'qdrant': not installed; pip install 'twotower[qdrant]'")
        settings = {"m": m, "ef_construction": ef_construction, "ef_search": ef_search}
        super().__init__({**settings, "columns": columns, "collection": collection}, columns)
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
        there: bool = say(lambda client: client.collection_exists(name))
        return there and bool(say(lambda client: client.delete_collection(name)))

    def _create(self, dim: int) -> None:
        models = _models()
        self._name = f"{self._settings['collection']}-{uuid.uuid4().hex[:12]}"
        graph = models.HnswConfigDiff(m=self._settings["m"], ef_construct=self._settings["ef_construction"])
        vectors = models.VectorParams(size=dim, distance=models.Distance.DOT)
        say(lambda client: client.create_collection(self._name, vectors_config=vectors, hnsw_config=graph))

    def _put(self, ids: list[int], vectors: NDArray[np.float32]) -> None:
        models = _models()
        points = models.Batch(ids=ids, vectors=vectors.tolist())
        say(lambda client: client.upsert(self._name, points))

    def _finish(self) -> None:
        """Return at once: the server indexes beside the traffic, and scans what is not indexed yet."""

    def _drop(self, ids: list[int]) -> None:
        say(lambda client: client.delete(self._name, ids))

    def _fill(self, ids: list[int], columns: Mapping[int, ItemColumn]) -> None:
        models = _models()
        for place, column in columns.items():
            schema = models.PayloadSchemaType(SCHEMAS[column.kind])
            say(functools.partial(_index_column, name=self._name, key=f"c{place}", schema=schema))
        operations = [
            models.OverwritePayloadOperation(
                overwrite_payload=models.SetPayload(payload=payload(columns, at), points=[id])
            )
            for at, id in enumerate(ids)
        ]
        for start in range(0, len(operations), BATCH):
            part = operations[start : start + BATCH]
            say(functools.partial(_update, name=self._name, operations=part))

    def _takes(self, condition: Condition, kinds: Mapping[str, tuple[str, bool]]) -> bool:
        return takes(condition, kinds)

    def _ask(self, query: list[float], k: int, where: Where) -> Scored:
        models = _models()
        given = filter_of(where, self._names, self._kinds)
        parameters = models.SearchParams(hnsw_ef=max(self._settings["ef_search"], k), exact=where.exact)
        found = say(
            lambda client: client.query_points(
                self._name,
                query=query,
                limit=k,
                query_filter=None if given is None else models.Filter(**given),
                search_params=parameters,
                with_payload=False,
            )
        )
        return [(int(point.id), float(point.score)) for point in found.points]

    def _keep(self, folder: Path) -> dict[str, Any]:
        return {"collection": self._name}

    def _find(self, folder: Path, note: Mapping[str, Any]) -> None:
        self._name = str(note["collection"])
        there = say(lambda client: client.collection_exists(self._name))
        number = say(lambda client: client.count(self._name, exact=True).count) if there else 0
        if number < len(self):
            has = f"has {number:,} of its {len(self):,} items" if there else "does not have it"
            raise InputError(
                f"{folder}: the index is collection '{self._name}', and {address_of('qdrant').shown} {has}; build it "
                "there: twotower index BUNDLE --kind qdrant"
            )

    def ping(self) -> None:
        """Return when the server answers and has the collection.

        Raises:
            UnavailableError: if the server does not answer.
            InputError: if it refuses the token, or does not have the collection.
        """
        if not say(lambda client: client.collection_exists(self._name)):
            raise InputError(f"{address_of('qdrant').shown} does not have collection '{self._name}'")


def say(call: Callable[[Any], T]) -> T:
    """Return what a call of the client returns, patiently.

    Raises:
        UnavailableError: if the server does not answer.
        InputError: if it refuses.
    """
    address = address_of("qdrant")
    refused = _exceptions().UnexpectedResponse
    try:
        return patiently(address, lambda: call(connected(address)), _passing)
    except refused as error:
        if error.status_code in (401, 403):
            raise InputError(f"{address.shown} refuses the token; set TWOTOWER_QDRANT_TOKEN") from None
        why = " ".join(str(error).split())[:200]
        raise InputError(f"{address.shown} refuses a request ({why})") from None


@functools.lru_cache(maxsize=4)
def connected(address: Address) -> Any:
    """Return the client of an address, one for the whole process."""
    from qdrant_client import QdrantClient

    if address.url == ":memory:":  # for tests: the client's own plain search
        client = QdrantClient(":memory:")
    else:
        client = QdrantClient(url=address.url, api_key=address.token, timeout=SECONDS, check_compatibility=False)
    atexit.register(client.close)  # while what it closes by is still there
    return client


def _passing(error: Exception) -> str | None:
    exceptions = _exceptions()
    if isinstance(error, exceptions.UnexpectedResponse):
        return f"status {error.status_code}" if (error.status_code or 0) >= 500 else None
    if isinstance(error, exceptions.ResponseHandlingException):
        return " ".join(str(error).split())[:120] or "no connection"
    return None


def _index_column(client: Any, *, name: str, key: str, schema: Any) -> None:
    client.create_payload_index(name, key, field_schema=schema)


def _update(client: Any, *, name: str, operations: list[Any]) -> None:
    client.batch_update_points(name, operations)


def _models() -> Any:
    from qdrant_client import models

    return models


def _exceptions() -> Any:
    from qdrant_client.http import exceptions

    return exceptions
