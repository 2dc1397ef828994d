"""A Milvus of a few lines: as much of its client as the index calls, by NumPy in memory."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest


class Columns:
    """A schema, or the parameters of an index: what was added."""

    def __init__(self) -> None:
        self.added: list[tuple[str, dict[str, Any]]] = []

    def add_field(self, name: str, kind: Any, **more: Any) -> None:
        self.added.append((name, {"kind": kind, **more}))

    def add_index(self, name: str, **more: Any) -> None:
        self.added.append((name, more))


class MilvusStub:
    """Collections of vectors by id. A search sees only what was loaded, as in Milvus."""

    def __init__(self) -> None:
        self.held: dict[str, dict[int, list[float]]] = {}
        self.dims: dict[str, int] = {}
        self.loaded: set[str] = set()
        self.indexes: dict[str, dict[str, Any]] = {}

    def create_schema(self, **_: Any) -> Columns:
        return Columns()

    def prepare_index_params(self) -> Columns:
        return Columns()

    def create_collection(self, name: str, *, schema: Columns, index_params: Columns, consistency_level: str) -> None:
        assert re.fullmatch(r"[A-Za-z_]\w*", name)
        assert consistency_level == "Strong", "what was put is found at once"
        fields = dict(schema.added)
        assert fields["id"]["is_primary"]
        self.held[name], self.dims[name] = {}, fields["vector"]["dim"]
        (_, self.indexes[name]), *_ = index_params.added

    def has_collection(self, name: str) -> bool:
        return name in self.held

    def drop_collection(self, name: str) -> None:
        del self.held[name]

    def flush(self, name: str) -> None:
        assert name in self.held

    def load_collection(self, name: str) -> None:
        assert name in self.held
        self.loaded.add(name)

    def upsert(self, name: str, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            assert len(row["vector"]) == self.dims[name]
            self.held[name][row["id"]] = row["vector"]

    def delete(self, name: str, *, ids: list[int]) -> None:
        for id in ids:
            del self.held[name][id]

    def search(
        self, name: str, *, data: list[list[float]], filter: str, limit: int, search_params: dict[str, Any]
    ) -> list[list[dict[str, Any]]]:
        assert name in self.loaded
        assert search_params["metric_type"] == self.indexes[name]["metric_type"] == "IP"
        assert search_params["params"]["ef"] >= limit, "Milvus refuses less"
        ids = sorted(id for id in self.held[name] if self._passes(id, filter))
        if not ids:
            return [[] for _ in data]
        scores = np.array(data, dtype=np.float32) @ np.array([self.held[name][id] for id in ids], dtype=np.float32).T
        best = np.argsort(-scores, axis=1, kind="stable")[:, :limit]
        return [
            [{"id": ids[place], "distance": float(row[place]), "entity": {}} for place in places]
            for row, places in zip(scores, best, strict=True)
        ]

    @staticmethod
    def _passes(id: int, filter: str) -> bool:
        for part in filter.split(" and ") if filter else ():
            found = re.fullmatch(r"id (not )?in \[([\d, ]*)\]", part)
            assert found, part
            listed = {int(number) for number in found[2].split(",") if number.strip()}
            if (id in listed) == bool(found[1]):
                return False
        return True


@pytest.fixture
def milvus(monkeypatch: pytest.MonkeyPatch) -> MilvusStub:
    """The stub in the place of the client."""
    pytest.importorskip("pymilvus")
    stub = MilvusStub()
    monkeypatch.setenv("TWOTOWER_MILVUS_URL", "http://stub:19530")
    monkeypatch.setattr("twotower.index.milvus.connected", lambda address: stub)
    return stub
