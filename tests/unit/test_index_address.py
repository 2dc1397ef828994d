"""Where an engine's address comes from, and what is said when it does not answer."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from twotower.core.errors import InputError, UnavailableError
from twotower.index.address import Address, address_of, patiently

ITEMS, IDS = torch.eye(3), torch.tensor([2, 3, 4])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twotower.index.address.PAUSES", (0.0, 0.0))
    for name in ("URL", "TOKEN", "TOKEN_FILE"):
        monkeypatch.delenv(f"TWOTOWER_QDRANT_{name}", raising=False)


def test_an_address_comes_from_the_environment_and_a_token_from_it_or_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no address of qdrant: set TWOTOWER_QDRANT_URL"):
        address_of("qdrant")
    monkeypatch.setenv("TWOTOWER_QDRANT_URL", "http://me:secret@here:6333")
    assert address_of("qdrant") == Address("qdrant", "http://me:secret@here:6333", None)
    assert "secret" not in repr(address_of("qdrant"))
    (tmp_path / "token").write_text("abc\n", encoding="utf-8")
    monkeypatch.setenv("TWOTOWER_QDRANT_TOKEN_FILE", str(tmp_path / "token"))
    assert address_of("qdrant").token == "abc"
    assert "abc" not in repr(address_of("qdrant"))
    monkeypatch.setenv("TWOTOWER_QDRANT_TOKEN", "def")
    with pytest.raises(InputError, match="are both set; keep one"):
        address_of("qdrant")
    monkeypatch.delenv("TWOTOWER_QDRANT_TOKEN")
    monkeypatch.setenv("TWOTOWER_QDRANT_TOKEN_FILE", str(tmp_path / "none"))
    with pytest.raises(InputError, match="none cannot be read"):
        address_of("qdrant")


def test_what_fails_for_now_is_tried_again_and_what_never_answers_is_said() -> None:
    tried: list[int] = []

    def at_the_third() -> str:
        tried.append(1)
        if len(tried) < 3:
            raise ConnectionError("refused")
        return "here"

    def why(error: Exception) -> str | None:
        return "refused" if isinstance(error, ConnectionError) else None

    address = Address("qdrant", "http://me:secret@here", "t")
    assert patiently(address, at_the_third, why) == "here"
    tried[:] = [1] * -9

    def never() -> str:
        tried.append(1)
        raise ConnectionError("refused")

    with pytest.raises(UnavailableError, match=r"^qdrant at http://here does not answer \(refused\)"):
        patiently(address, never, why)
    assert len(tried) == 3
    with pytest.raises(KeyError):
        patiently(address, lambda: {}["x"], why)


class Refusing(BaseHTTPRequestHandler):
    """A server that answers everything with one status, and notes the tokens."""

    status = 401
    tokens: list[str | None] = []  # noqa: RUF012

    def _answer(self) -> None:
        self.tokens.append(self.headers.get("api-key"))
        body = json.dumps({"status": {"error": "no"}}).encode()
        self.send_response(self.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST = _answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Refusing]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("TWOTOWER_QDRANT_URL", f"http://127.0.0.1:{server.server_port}")
    Refusing.tokens.clear()
    yield Refusing
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
def test_a_server_that_refuses_the_token_is_said_and_the_token_is_sent(
    refusing: type[Refusing], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("qdrant_client")
    from twotower.index.qdrant_server import QdrantIndex

    monkeypatch.setenv("TWOTOWER_QDRANT_TOKEN", "abc")
    with pytest.raises(InputError, match=r"refuses the token; set TWOTOWER_QDRANT_TOKEN"):
        QdrantIndex().build(ITEMS, IDS)
    assert set(refusing.tokens) == {"abc"}
    monkeypatch.setattr(refusing, "status", 503)
    refusing.tokens.clear()
    with pytest.raises(UnavailableError, match="status 503"):
        QdrantIndex().build(ITEMS, IDS)
    assert len(refusing.tokens) == 3


def test_an_address_where_nothing_listens_is_said_before_any_traffic(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("qdrant_client")
    from twotower.index.qdrant_server import QdrantIndex

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("TWOTOWER_QDRANT_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
    with pytest.raises(UnavailableError, match=r"does not answer .*; start it, or mend its address"):
        QdrantIndex().build(ITEMS, IDS)


def test_a_milvus_where_nothing_listens_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    exceptions = pytest.importorskip("pymilvus.exceptions")
    from twotower.index.milvus import MilvusIndex

    def refused(address: Address) -> None:
        raise exceptions.MilvusException(message="Fail connecting to server on there:19530")

    monkeypatch.setenv("TWOTOWER_MILVUS_URL", "http://there:19530")
    monkeypatch.setattr("twotower.index.milvus.connected", refused)
    with pytest.raises(UnavailableError, match=r"milvus at http://there:19530 does not answer"):
        MilvusIndex().build(ITEMS, IDS)
    with pytest.raises(InputError, match=r"index.collection: letters, digits and underscores"):
        MilvusIndex(collection="a-b")


@pytest.mark.filterwarnings("ignore:Local mode performs exact")
def test_a_bundle_names_its_collection_and_no_address_and_a_collection_that_is_gone_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("qdrant_client")
    from twotower.index.qdrant_server import QdrantIndex, connected

    monkeypatch.setenv("TWOTOWER_QDRANT_URL", ":memory:")
    first, second = QdrantIndex(), QdrantIndex(collection="films")
    first.build(ITEMS, IDS)
    second.build(ITEMS, IDS)
    assert second.collection.startswith("films-")
    first.build(ITEMS[:2], IDS[:2])
    first.save(tmp_path)
    written = (tmp_path / "index.json").read_text(encoding="utf-8")
    assert first.collection in written
    assert "memory" not in written
    same = QdrantIndex.load(tmp_path)
    assert isinstance(same, QdrantIndex)
    same.add(ITEMS[2:], IDS[2:])
    assert first.search(ITEMS[2:], 3).ids.tolist() == [[2, 3, -1]], "what another holder adds is not this bundle's"
    connected(address_of("qdrant")).delete_collection(first.collection)
    with pytest.raises(InputError, match="does not have it; build it there: twotower index BUNDLE --kind qdrant"):
        QdrantIndex.load(tmp_path)


def test_a_server_that_lost_the_collection_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("qdrant_client")
    from twotower.index.qdrant_server import QdrantIndex, connected

    monkeypatch.setenv("TWOTOWER_QDRANT_URL", ":memory:")
    index = QdrantIndex()
    index.build(ITEMS, IDS)
    index.ping()
    connected(address_of("qdrant")).delete_collection(index.collection)
    with pytest.raises(InputError, match="does not have collection 'twotower-"):
        index.ping()
