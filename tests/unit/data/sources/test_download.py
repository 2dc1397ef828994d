"""Downloads against a server of our own that breaks, refuses and lies on demand."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from twotower.data.sources.base import Archive, SourceUnavailable
from twotower.data.sources.download import download

CONTENT = bytes(range(256)) * 1500 + b"the end"
OTHER = CONTENT[::-1]


class Server(http.server.ThreadingHTTPServer):
    """Serves ``content``; keeps what was asked for."""

    content = CONTENT
    tag = '"one"'
    ranges = True
    break_after: list[int]
    answers: list[int]
    asked: list[str | None]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        server.asked.append(self.headers.get("Range"))
        if server.answers:
            self.send_error(server.answers.pop(0))
            return
        start = 0
        wanted = self.headers.get("Range")
        same = self.headers.get("If-Range", server.tag) == server.tag
        if server.ranges and wanted and same:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(server.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(server.content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(server.content) - start))
        if server.tag:
            self.send_header("ETag", server.tag)
        self.end_headers()
        body = server.content[start:]
        if server.break_after:
            body = body[: server.break_after.pop(0)]
            self.close_connection = True
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        running.break_after, running.answers, running.asked = [], [], []
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def archive(server: Server, *, checked: bool = True, name: str = "set.zip") -> Archive:
    address = f"http://127.0.0.1:{server.server_address[1]}/{name}"
    if not checked:
        return Archive(name, address)
    return Archive(name, address, len(CONTENT), hashlib.md5(CONTENT).hexdigest())


def fetch(archive: Archive, target: Path, **options: object) -> Path:
    return download(archive, target, pause=0.0, timeout=5.0, **options)  # type: ignore[arg-type]


def test_whole_file_arrives_and_progress_ends_at_its_size(server: Server, tmp_path: Path) -> None:
    told: list[tuple[str, int, int | None]] = []
    target = fetch(archive(server), tmp_path / "in" / "set.zip", progress=lambda *word: told.append(word))
    assert target.read_bytes() == CONTENT
    assert told[-1] == ("set.zip", len(CONTENT), len(CONTENT))
    assert [path.name for path in target.parent.iterdir()] == ["set.zip"]


def test_file_that_is_there_and_right_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.zip").write_bytes(CONTENT)
    fetch(archive(server), tmp_path / "set.zip")
    assert server.asked == []


def test_file_that_is_there_and_wrong_is_fetched_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.zip").write_bytes(OTHER)
    assert fetch(archive(server), tmp_path / "set.zip").read_bytes() == CONTENT


def test_broken_connection_goes_on_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.break_after = [100_000, 7]
    assert fetch(archive(server), tmp_path / "set.zip").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-", "bytes=100007-"]


def test_later_call_goes_on_where_an_earlier_one_gave_up(server: Server, tmp_path: Path) -> None:
    server.break_after = [50_000, 0, 0]
    with pytest.raises(SourceUnavailable, match="call again to go on from set.zip.part"):
        fetch(archive(server), tmp_path / "set.zip", attempts=2)
    assert (tmp_path / "set.zip.part").stat().st_size == 50_000
    assert fetch(archive(server), tmp_path / "set.zip").read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=50000-"


def test_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    server.break_after = [100_000]
    assert fetch(archive(server), tmp_path / "set.zip").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-"]


def test_two_versions_of_a_file_are_not_joined(server: Server, tmp_path: Path) -> None:
    server.break_after = [100_000, 0]
    with pytest.raises(SourceUnavailable):
        fetch(archive(server, checked=False), tmp_path / "set.zip", attempts=1)
    server.content, server.tag = OTHER, '"two"'
    assert fetch(archive(server, checked=False), tmp_path / "set.zip").read_bytes() == OTHER


def test_without_version_and_checksum_nothing_is_joined(server: Server, tmp_path: Path) -> None:
    server.tag = ""
    server.break_after = [100_000]
    assert fetch(archive(server, checked=False), tmp_path / "set.zip").read_bytes() == CONTENT
    assert server.asked == [None, None]


def test_all_bytes_at_hand_need_no_more(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.zip.part").write_bytes(CONTENT)
    assert fetch(archive(server), tmp_path / "set.zip").read_bytes() == CONTENT


def test_too_many_bytes_at_hand_are_thrown_away(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.zip.part").write_bytes(CONTENT + b"more")
    assert fetch(archive(server), tmp_path / "set.zip").read_bytes() == CONTENT


@pytest.mark.parametrize("wrong", [OTHER, CONTENT + b"more"])
def test_wrong_file_is_refused_and_removed(server: Server, tmp_path: Path, wrong: bytes) -> None:
    server.content = wrong
    with pytest.raises(SourceUnavailable, match="published"):
        fetch(archive(server), tmp_path / "set.zip")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status", [404, 403, 410])
def test_refusal_is_final(server: Server, tmp_path: Path, status: int) -> None:
    server.answers = [status]
    with pytest.raises(SourceUnavailable, match=f"{status}.*--from"):
        fetch(archive(server), tmp_path / "set.zip")
    assert len(server.asked) == 1


def test_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.answers = [503, 429]
    assert fetch(archive(server), tmp_path / "set.zip").read_bytes() == CONTENT


def test_server_that_stays_busy_is_given_up(server: Server, tmp_path: Path) -> None:
    server.answers = [503] * 9
    with pytest.raises(SourceUnavailable, match="3 failures"):
        fetch(archive(server), tmp_path / "set.zip", attempts=3)
    assert len(server.asked) == 3


def test_nobody_at_the_address_fails_at_once(tmp_path: Path) -> None:
    nobody = Archive("set.zip", "http://127.0.0.1:9/set.zip")
    with pytest.raises(SourceUnavailable, match="cannot be reached"):
        fetch(nobody, tmp_path / "set.zip")


def test_silent_server_is_given_up(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listening:
        silent = Archive("set.zip", f"http://127.0.0.1:{listening.getsockname()[1]}/set.zip")
        with pytest.raises(SourceUnavailable, match="timed out"):
            download(silent, tmp_path / "set.zip", timeout=0.1, attempts=2, pause=0.0)
