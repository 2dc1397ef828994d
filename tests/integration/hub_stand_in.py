"""A server in this process that answers as a hub of models does, as far as a push and a pull ask it."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_standinsecret"


class StandIn:
    """Repositories by name: each a list of commits, and a commit is its files."""

    def __init__(self) -> None:
        self.commits: dict[str, list[dict[str, bytes]]] = {}
        self.private: dict[str, bool] = {}
        self.address = ""
        self.spoil = False
        """Whether what arrives is changed on its way."""

    def sha(self, repository: str, number: int) -> str:
        return hashlib.sha1(f"{repository} {number}".encode()).hexdigest()

    def files(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commits = self.commits[repository]
        known = {self.sha(repository, number): files for number, files in enumerate(commits)}
        if revision == "main":
            return self.sha(repository, len(commits) - 1), commits[-1]
        return (revision, known[revision]) if revision in known else None

    def commit(self, repository: str, lines: list[dict[str, Any]]) -> tuple[int, dict[str, Any]]:
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit") not in (None, self.sha(repository, len(self.commits[repository]) - 1)):
            return 412, {"error": "another commit came first"}
        files = dict(self.commits[repository][-1])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"]) + (b"!" if self.spoil else b"")
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        self.commits[repository].append(files)
        sha = self.sha(repository, len(self.commits[repository]) - 1)
        return 200, {"success": True, "commitOid": sha, "commitUrl": f"{self.address}/{repository}/commit/{sha}"}


@contextmanager
def running() -> Iterator[StandIn]:
    """A hub that runs while the block does."""
    hub = StandIn()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def reply(self, status: int, body: Any = b"", **headers: str) -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def do_GET(self) -> None:
            parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self.reply(401, {"error": "who are you?"}, X_Error_Code="RepoNotFound")
            api = parts[:2] == ["api", "models"]
            repository = "/".join(parts[2:4] if api else parts[:2])
            if repository not in hub.commits:
                return self.reply(404, {"error": "no repository"}, X_Error_Code="RepoNotFound")
            revision = (parts[5] if len(parts) > 5 else "main") if api else parts[3]
            found = hub.files(repository, revision)
            if found is None:
                return self.reply(404, {"error": "no revision"}, X_Error_Code="RevisionNotFound")
            sha, files = found
            if api:
                siblings = [{"rfilename": name} for name in files]
                return self.reply(200, {"id": repository, "sha": sha, "siblings": siblings})
            name = "/".join(parts[4:])
            if name not in files:
                return self.reply(404, {"error": "no file"}, X_Error_Code="EntryNotFound", X_Repo_Commit=sha)
            etag = f'"{hashlib.sha1(files[name]).hexdigest()}"'
            return self.reply(200, files[name], X_Repo_Commit=sha, ETag=etag)

        do_HEAD = do_GET  # noqa: N815 - named by the library

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self.reply(401, {"error": "who are you?"})
            if parts == ["api", "validate-yaml"]:
                return self.reply(200, {"errors": [], "warnings": [{"message": "empty metadata"}]})
            if parts == ["api", "repos", "create"]:
                asked = json.loads(body)
                repository = f"{asked['organization']}/{asked['name']}"
                if repository in hub.commits:
                    return self.reply(409, {"error": "it exists", "url": f"{hub.address}/{repository}"})
                hub.commits[repository] = [{".gitattributes": b"*.bin lfs\n"}]
                hub.private[repository] = asked.get("visibility") == "private" or bool(asked.get("private"))
                return self.reply(200, {"url": f"{hub.address}/{repository}"})
            repository, what = "/".join(parts[2:4]), parts[4]
            if what == "preupload":
                names = [file["path"] for file in json.loads(body)["files"]]
                files = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
                return self.reply(200, {"files": files})
            if what == "commit":
                return self.reply(*hub.commit(repository, [json.loads(line) for line in body.splitlines() if line]))
            if what == "paths-info":
                asked = json.loads(body) if body[:1] == b"{" else parse_qs(body.decode())
                found = hub.files(repository, parts[5])
                files_there = {} if found is None else found[1]
                infos = [
                    {"type": "file", "path": name, "size": len(files_there[name]), "oid": git_hash(files_there[name])}
                    for name in asked["paths"]
                    if name in files_there
                ]
                return self.reply(200, infos)
            return self.reply(404, {"error": "no such route"})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
