"""Forms of the stores: what a line of each file is, and which ids and sizes a store takes."""

from __future__ import annotations

import itertools
import json
import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from twotower.core.errors import InputError, shown
from twotower.serving.stores.rows import Row, Rows

REQUEST = 256
"""Rows of one request to Qdrant or Milvus."""
NAMESPACE = uuid.UUID("6f0c2f0e-9e1d-5a38-8a52-0d0f4a1c7b11")
"""Of the UUIDs that Qdrant takes in place of ids."""
MOST_BYTES = {"opensearch": 512, "milvus": 512}
"""Of an id: OpenSearch's limit, and the length that the page on stores gives the key of Milvus."""
MOST_PGVECTOR, MOST_INDEXED, MOST_HALVES = 16_000, 2_000, 4_000
"""Numbers of a vector that pgvector holds, and that its index takes whole and in halves."""


ZERO = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
"""A zero byte, as JSON has it."""


class Form(NamedTuple):
    """Describe the file of a store."""

    suffix: str
    lines: Callable[[Rows, str], Iterator[str]]
    """All lines, given the rows and the name of the collection, index or table."""


def qdrant(rows: Rows, name: str) -> Iterator[str]:
    """Write bodies of ``PUT /collections/NAME/points``, `REQUEST` rows each.

    Qdrant takes numbers and UUIDs alone as ids: a point's is made of the outside id, which stands in its payload.
    """
    for part in _parts(rows):
        points = ", ".join(
            f'{{"id": "{point_id(row.id)}", "vector": {row.vector}, "payload": {_json({"id": row.id, **row.columns})}}}'
            for row in part
        )
        yield f'{{"points": [{points}]}}'


def point_id(id: str) -> str:
    """Return the identifier that Qdrant takes in place of an outside id, always the same.

    Examples:
        >>> point_id("film 1") == point_id("film 1") != point_id("film 2")
        True
    """
    return str(uuid.uuid5(NAMESPACE, id))


def milvus(rows: Rows, name: str) -> Iterator[str]:
    """Write bodies of ``POST /v2/vectordb/entities/upsert``, `REQUEST` rows each; raw columns are dynamic fields."""
    for part in _parts(rows):
        entities = ", ".join(
            f'{{"id": {_json(_short(row.id, "milvus"))}, "vector": {row.vector}{_more(row.columns)}}}' for row in part
        )
        yield f'{{"collectionName": {_json(name)}, "data": [{entities}]}}'


def opensearch(rows: Rows, name: str) -> Iterator[str]:
    """Write two lines a row, as ``POST /NAME/_bulk`` takes them: the id, then the document."""
    for row in rows:
        yield f'{{"index": {{"_id": {_json(_short(row.id, "opensearch"))}}}}}'
        yield f'{{"vector": {row.vector}{_more(row.columns)}}}'


def pgvector(rows: Rows, name: str) -> Iterator[str]:
    """Write a script for psql: a new table of id, vector and columns (jsonb), its rows in bulk, and an index.

    Raises:
        InputError: if the vectors have more numbers than pgvector holds, or a text has a zero byte.
    """
    if rows.dim > MOST_PGVECTOR:
        raise InputError(f"pgvector holds vectors of up to {MOST_PGVECTOR:,} numbers; these have {rows.dim:,}")
    table = '"' + name.replace('"', '""') + '"'
    yield "CREATE EXTENSION IF NOT EXISTS vector;"
    yield "BEGIN;"
    yield f"CREATE TABLE {table} (id text PRIMARY KEY, vector vector({rows.dim}) NOT NULL, columns jsonb NOT NULL);"
    yield f"COPY {table} (id, vector, columns) FROM stdin;"
    for row in rows:
        columns = _json(row.columns)
        if "\0" in row.id or ZERO.search(columns):
            raise InputError(f"{rows.side[:-1]} {shown(row.id)} has a zero byte in its texts, which PostgreSQL refuses")
        yield "\t".join((_copied(row.id), row.vector, _copied(columns)))
    yield "\\."
    if rows.dim <= MOST_INDEXED:
        yield f"CREATE INDEX ON {table} USING hnsw (vector vector_ip_ops);"
    elif rows.dim <= MOST_HALVES:
        yield f"CREATE INDEX ON {table} USING hnsw ((vector::halfvec({rows.dim})) halfvec_ip_ops);"
    yield "COMMIT;"


FORMS = {
    "qdrant": Form(".jsonl", qdrant),
    "milvus": Form(".jsonl", milvus),
    "opensearch": Form(".ndjson", opensearch),
    "pgvector": Form(".sql", pgvector),
}


def _parts(rows: Iterable[Row]) -> Iterator[list[Row]]:
    all_rows = iter(rows)
    while part := list(itertools.islice(all_rows, REQUEST)):
        yield part


def _more(columns: dict[str, Any]) -> str:
    """Further members of a JSON object, each with its comma."""
    return f", {_json(columns)[1:-1]}" if columns else ""


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _short(id: str, store: str) -> str:
    if len(id.encode()) > MOST_BYTES[store]:
        raise InputError(f"the id {shown(id, 40)} is longer than the {MOST_BYTES[store]} bytes that {store} takes here")
    return id


def _copied(text: str) -> str:
    """A value of COPY's text form."""
    for sign, escaped in (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r")):
        text = text.replace(sign, escaped)
    return text
