"""Files for vector stores, loaded by the snippets of the page into stand-ins that check requests as the store does."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

import twotower
from twotower.cli.main import main
from twotower.core.errors import InputError
from twotower.serving.retriever import Retriever
from twotower.serving.stores import forms
from twotower.serving.stores.rows import Rows
from twotower.serving.stores.write import write_for_store

ODD = 'a\tb\\n"c\nd\\.'
"""A title with every sign that means something to a form."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [(user, f"f{(user + step) % 9}", 60 * step) for user in range(8) for step in range(5)]
    events = {name: [row[place] for row in rows] for place, name in enumerate(("user", "item", "time"))}
    titles = [ODD if number == 3 else f"film {number}" for number in range(9)]
    years = [None if number == 4 else 1990 + number for number in range(9)]
    items = {"item": [f"f{number}" for number in range(9)], "title": titles, "year": years}
    data = twotower.Dataset.from_frames(events, items=items, unit="s", name="rings")
    folder = tmp_path_factory.mktemp("stores") / "two_tower"
    twotower.train("two_tower", data, to=folder, device="cpu", epochs=1, dim=4)
    return folder


@pytest.fixture(scope="module")
def retriever(bundle: Path) -> Retriever:
    return twotower.load(bundle)


def snippet(root: Path, store: str) -> str:
    page = (root / "docs" / "how-to" / "vector-stores.md").read_text(encoding="utf-8")
    found = re.search(rf'```python title="{store}"\n(.*?)```', page, re.DOTALL)
    assert found is not None
    return found[1]


@dataclass
class Store:
    """What a stand-in was told: the settings of its collection, and its rows by id."""

    settings: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, tuple[list[float], dict[str, Any]]] = field(default_factory=dict)


Take = Callable[[Store, str, str, bytes, str], object]


def qdrant(store: Store, method: str, path: str, body: bytes, kind: str) -> object:
    asked = json.loads(body)
    assert (method, kind) == ("PUT", "application/json")
    if path == "/collections/items":
        assert asked["vectors"]["distance"] == "Dot"
        store.settings = asked
        return {"result": True}
    assert path == "/collections/items/points?wait=true"
    for point in asked["points"]:
        assert set(point) == {"id", "vector", "payload"}
        assert len(point["vector"]) == store.settings["vectors"]["size"]
        payload = dict(point["payload"])
        assert str(uuid.UUID(point["id"])) == point["id"] == forms.point_id(payload["id"])
        store.rows[payload.pop("id")] = (point["vector"], payload)
    return {"result": {"status": "completed"}}


def milvus(store: Store, method: str, path: str, body: bytes, kind: str) -> object:
    asked = json.loads(body)
    assert (method, kind) == ("POST", "application/json")
    if path == "/v2/vectordb/collections/create":
        assert (asked["metricType"], asked["idType"], asked["primaryFieldName"]) == ("IP", "VarChar", "id")
        store.settings = asked
        return {"code": 0, "data": {}}
    assert path == "/v2/vectordb/entities/upsert"
    assert asked["collectionName"] == store.settings["collectionName"] == "items"
    for entity in asked["data"]:
        vector = entity.pop("vector")
        if len(vector) != store.settings["dimension"]:
            return {"code": 1804, "message": "dimension mismatch"}
        store.rows[entity.pop("id")] = (vector, entity)
    return {"code": 0, "data": {"upsertCount": len(asked["data"])}}


def opensearch(store: Store, method: str, path: str, body: bytes, kind: str) -> object:
    if (method, path) == ("PUT", "/items"):
        assert kind == "application/json"
        store.settings = json.loads(body)
        return {"acknowledged": True}
    assert (method, path, kind) == ("POST", "/items/_bulk", "application/x-ndjson")
    assert body.endswith(b"\n"), "OpenSearch refuses a last line without an end"
    lines = [json.loads(line) for line in body.splitlines()]
    size = store.settings["mappings"]["properties"]["vector"]["dimension"]
    errors = False
    for action, document in zip(lines[::2], lines[1::2], strict=True):
        vector = document.pop("vector")
        errors |= len(vector) != size
        store.rows[action["index"]["_id"]] = (vector, document)
    return {"errors": errors, "items": []}


@pytest.fixture
def stand_in() -> Iterator[Callable[[Take], tuple[Store, str]]]:
    """Starts a server that answers as a store does."""
    servers: list[ThreadingHTTPServer] = []

    def start(take: Take) -> tuple[Store, str]:
        store = Store()

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, told = 200, b""
                try:
                    kind = self.headers["Content-Type"]
                    told = json.dumps(take(store, self.command, self.path, body, kind)).encode()
                except (AssertionError, KeyError, ValueError) as error:
                    status, told = 400, repr(error).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(told)))
                self.end_headers()
                self.wfile.write(told)

            do_PUT = do_POST = answer  # noqa: N815 - named by the library

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return store, f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def expected(retriever: Retriever) -> dict[str, tuple[Any, dict[str, Any]]]:
    ids, vectors = retriever.item_vectors()
    columns = {record.id: record.columns for record in retriever.items(ids)}
    return {
        id: (pytest.approx(vector.tolist(), rel=1e-6), {k: v for k, v in columns[id].items() if v is not None})
        for id, vector in zip(ids, vectors, strict=True)
    }


@pytest.mark.parametrize(("name", "take"), [("qdrant", qdrant), ("milvus", milvus), ("opensearch", opensearch)])
def test_the_snippet_of_the_page_loads_the_file_and_the_store_finds_what_the_bundle_finds(
    name: str,
    take: Take,
    stand_in: Callable[[Take], tuple[Store, str]],
    bundle: Path,
    retriever: Retriever,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forms, "REQUEST", 4)  # so that there are several requests
    file = tmp_path / f"items{forms.FORMS[name].suffix}"
    with pytest.raises(SystemExit) as end:
        main(["vectors", str(bundle), "--for", name, "--to", str(file)])
    assert end.value.code == 0
    store, address = stand_in(take)
    done = subprocess.run(
        [sys.executable, "-c", snippet(root, name)],
        cwd=tmp_path,
        env={name.upper(): address, "no_proxy": "127.0.0.1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert store.rows == expected(retriever)
    assert store.rows["f3"][1]["title"] == ODD
    assert "year" not in store.rows["f4"][1]
    ((_, user),) = zip(*retriever.user_vectors(["2"]), strict=True)
    best = sorted(store.rows, key=lambda id: -float(np.dot(store.rows[id][0], user)))[:5]
    assert best == [answer.id for answer in retriever.recommend("2", k=5, include_seen=True)]


def copied(script: str) -> dict[str, tuple[list[float], dict[str, Any]]]:
    """The rows of a script, by the rules of COPY's text form."""
    signs = {"t": "\t", "n": "\n", "r": "\r", "\\": "\\"}
    lines = script.split("\n")
    begin = next(place for place, line in enumerate(lines) if line.startswith("COPY"))
    found = {}
    for line in lines[begin + 1 : lines.index("\\.")]:
        id, vector, columns = (re.sub(r"\\(.)", lambda sign: signs[sign[1]], cell) for cell in line.split("\t"))
        found[id] = (json.loads(vector), json.loads(columns))
    return found


def test_the_script_for_pgvector_has_every_row_and_makes_what_it_needs(retriever: Retriever, tmp_path: Path) -> None:
    assert write_for_store(retriever, tmp_path / "i.sql", store="pgvector", name="films") == (9, 4)
    script = (tmp_path / "i.sql").read_text(encoding="utf-8")
    assert copied(script) == expected(retriever)
    plain = [line for line in script.split("\n") if line.endswith(";")]
    assert plain == [
        "CREATE EXTENSION IF NOT EXISTS vector;",
        "BEGIN;",
        'CREATE TABLE "films" (id text PRIMARY KEY, vector vector(4) NOT NULL, columns jsonb NOT NULL);',
        'COPY "films" (id, vector, columns) FROM stdin;',
        'CREATE INDEX ON "films" USING hnsw (vector vector_ip_ops);',
        "COMMIT;",
    ]


def test_postgres_runs_the_script_and_finds_what_the_bundle_finds(retriever: Retriever, tmp_path: Path) -> None:
    server = pytest.importorskip("pgserver", reason="needs the package pgserver, a PostgreSQL with pgvector (11 MB)")
    if shutil.which("psql") is None:
        pytest.skip("needs psql")
    write_for_store(retriever, tmp_path / "items.sql", store="pgvector")
    database = server.get_server(tmp_path / "database")
    try:
        script = str(tmp_path / "items.sql")
        words = ["psql", "-qtA", "-v", "ON_ERROR_STOP=1", database.get_uri()]
        subprocess.run([*words, "-f", script], check=True, capture_output=True)
        (vector,) = retriever.user_vectors(["2"])[1].tolist()
        ask = f"SELECT id FROM items ORDER BY vector <#> '{vector}' LIMIT 5"
        told = subprocess.run([*words, "-c", ask], check=True, capture_output=True, text=True).stdout.split()
        assert told == [answer.id for answer in retriever.recommend("2", k=5, include_seen=True)]
        ask = "SELECT columns->>'title' FROM items WHERE id = 'f3'"
        told = subprocess.run([*words, "-c", ask], check=True, capture_output=True, text=True).stdout
        assert told == ODD + "\n"
    finally:
        database.cleanup()


@pytest.mark.parametrize(
    ("dim", "made"), [(2_000, "(vector vector_ip_ops)"), (2_001, "halfvec(2001)"), (4_001, ""), (16_001, None)]
)
def test_pgvector_indexes_what_it_can(dim: int, made: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wide(Rows):
        def __init__(self) -> None:
            self.dim, self.side = dim, "items"

        def __iter__(self) -> Iterator[Any]:
            return iter(())

    if made is None:
        with pytest.raises(InputError, match="up to 16,000 numbers; these have 16,001"):
            list(forms.pgvector(Wide(), "items"))
        return
    indexes = [line for line in forms.pgvector(Wide(), "items") if "CREATE INDEX" in line]
    assert [made in line for line in indexes] == ([True] if made else [])


def test_users_are_written_too_in_parts(retriever: Retriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twotower.serving.stores.rows.PART", 3)
    write_for_store(retriever, tmp_path / "u.sql", store="pgvector", side="users")
    found = copied((tmp_path / "u.sql").read_text(encoding="utf-8"))
    ids, vectors = retriever.user_vectors(list(found))
    assert sorted(ids) == [str(user) for user in range(8)]
    assert [found[id][0] for id in ids] == [pytest.approx(vector, rel=1e-6) for vector in vectors.tolist()]


def test_each_number_is_the_same_float32_again(retriever: Retriever) -> None:
    vectors = np.array([json.loads(row.vector) for row in Rows(retriever, "items")], dtype=np.float32)
    assert vectors.tobytes() == retriever.item_vectors()[1].tobytes()


def test_a_zero_byte_is_refused_for_postgres_and_two_signs_like_one_are_not(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for title, refused in (("a\\u0000", False), ("a\0", True), ("\\\0", True)):
        retriever = twotower.load(bundle)
        retriever.bundle.item_vocabulary.preload()
        retriever.bundle.item_vocabulary._record_of[2].columns["title"] = title
        if refused:
            with pytest.raises(InputError, match="zero byte in its texts"):
                write_for_store(retriever, tmp_path / "i.sql", store="pgvector")
        else:
            write_for_store(retriever, tmp_path / "i.sql", store="pgvector")
            (tmp_path / "i.sql").unlink()
    assert not list(tmp_path.iterdir()), "nothing half is left"


def test_an_id_too_long_for_the_store_is_refused(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(forms.MOST_BYTES, "milvus", 1)
    with pytest.raises(InputError, match="is longer than the 1 bytes that milvus takes here"):
        write_for_store(twotower.load(bundle), tmp_path / "i.jsonl", store="milvus")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--for", "qdrannt", "--to", "i.jsonl"], "unknown store 'qdrannt'; did you mean 'qdrant'"),
        (["--for", "pgvector", "--to", "i.csv"], "name it *.sql, as pgvector loads it"),
        (["--for", "milvus", "--to", "i.jsonl", "--side", "item"], "did you mean 'items'"),
        (["--for", "pgvector", "--to", "i.sql", "--name", 'a"; DROP TABLE b'], "letters without accents"),
        (["--for", "pgvector", "--to", "i.sql", "--atlas"], "--atlas adds columns to a Parquet file"),
        (["--to", "i.parquet", "--name", "films"], "--name goes with --for"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_file(
    words: list[str], said: str, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["vectors", str(bundle), *(str(tmp_path / word) if word.startswith("i.") else word for word in words)])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert end.value.code == 2
    assert said in line
    assert not list(tmp_path.iterdir())


def test_a_model_with_another_score_says_that_a_store_finds_candidates(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    events = {"user": [0, 0, 1, 1] * 3, "item": [0, 1, 1, 2] * 3, "time": list(range(12))}
    data = twotower.Dataset.from_frames(events, unit="s", name="few")
    more = {"epochs": 1, "dim": 4, "score": "mlp", "loss": "bce"}
    twotower.train("two_tower", data, to=tmp_path / "b", device="cpu", **more)
    write_for_store(twotower.load(tmp_path / "b"), tmp_path / "i.jsonl", store="qdrant")
    assert "has another score than the inner product" in caplog.text


def test_parquet_is_read_by_whatever_reads_parquet(bundle: Path, retriever: Retriever, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(["vectors", str(bundle), "--to", str(tmp_path / "i.parquet")])
    rows = duckdb.sql(f"SELECT id, vector, title, year FROM '{tmp_path / 'i.parquet'}'").fetchall()
    named = {id: (vector, {"title": title, "year": year}) for id, vector, title, year in rows}
    wanted = {id: (vector, {"year": None, **columns}) for id, (vector, columns) in expected(retriever).items()}
    assert named == wanted
