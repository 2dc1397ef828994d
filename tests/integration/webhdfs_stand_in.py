"""A small server that speaks WebHDFS, as far as fsspec's client asks: files of a folder on disk, over HTTP."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


class _Handler(BaseHTTPRequestHandler):
    root: Path
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each answer of a kept connection waits 40 ms for an acknowledgement of its head

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        words = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        path = self.root / unquote(parts.path).removeprefix("/webhdfs/v1").strip("/")
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        name = words.get("op", "")
        if not path.exists() and name in ("GETFILESTATUS", "LISTSTATUS", "OPEN", "DELETE", "RENAME"):
            fault = {"exception": "FileNotFoundException", "message": f"no {path.name}"}
            return self._say({"RemoteException": fault}, 404)
        if "data" in words:  # what the redirect of CREATE and APPEND leads to
            with path.open("wb" if name == "CREATE" else "ab") as file:
                file.write(data)
            return self._say({})
        if name in ("CREATE", "APPEND"):
            path.parent.mkdir(parents=True, exist_ok=True)
            host, port = self.server.server_address[:2]
            return self._say({}, 307, location=f"http://{host!s}:{port}{parts.path}?op={name}&data=true")
        if name == "GETFILESTATUS":
            return self._say({"FileStatus": _status(path, "")})
        if name == "LISTSTATUS":
            found = sorted(path.iterdir()) if path.is_dir() else [path]
            return self._say({"FileStatuses": {"FileStatus": [_status(one, one.name) for one in found]}})
        if name == "OPEN":
            start = int(words.get("offset", 0))
            return self._say(path.read_bytes()[start : start + int(words["length"])])
        if name == "MKDIRS":
            path.mkdir(parents=True, exist_ok=True)
        elif name == "RENAME":
            path.replace(self.root / words["destination"].strip("/"))
        elif name == "DELETE":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return self._say({"boolean": True})

    def _say(self, value: Any, status: int = 200, location: str = "") -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if location:
            self.send_header("Location", location)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815


def _status(path: Path, suffix: str) -> dict[str, Any]:
    size = path.stat().st_size if path.is_file() else 0
    return {"pathSuffix": suffix, "type": "FILE" if path.is_file() else "DIRECTORY", "length": size}


@contextlib.contextmanager
def running(root: Path) -> Iterator[str]:
    """Serve a folder; yields the address of its root."""
    root.mkdir(exist_ok=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"root": root}))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"webhdfs://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
