"""Gate before every route: the token, the access log, the count, and an answer where a route fails."""

from __future__ import annotations

import hmac
import json
import logging
import time
from collections.abc import Collection
from datetime import UTC, datetime

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from twotower.core.terminal import visible
from twotower.serving.http.metrics import Metrics

access = logging.getLogger("twotower.serving.http.access")
log = logging.getLogger(__name__)

OPEN = ("/healthz", "/readyz")
"""What whoever watches the service may ask without a token."""

LONGEST_PATH = 300


class Gate:
    """Wrap the routes as ASGI middleware.

    Args:
        app: what it stands before.
        metrics: counts each request.
        token: what a client must send as ``Authorization: Bearer …``; None: nothing.
        open_paths: what may be asked without it, letter for letter.
    """

    def __init__(
        self, app: ASGIApp, *, metrics: Metrics, token: str | None, open_paths: Collection[str] = OPEN
    ) -> None:
        self.app = app
        self.metrics = metrics
        self.token = None if token is None else token.encode()
        self.open_paths = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if self._may_pass(scope):
                await self.app(scope, receive, noted)
            else:
                refusal = {"error": "a token is wanted; send the header Authorization: Bearer TOKEN"}
                headers = {"WWW-Authenticate": "Bearer"}
                await JSONResponse(refusal, 401, headers)(scope, receive, noted)
        except Exception:
            log.exception("a request failed: %s %s", scope["method"], visible(scope["path"][:LONGEST_PATH]))
            if not status:
                failure = {"error": "the service failed on this request, and its log says how; report it"}
                await JSONResponse(failure, 500)(scope, receive, noted)
        finally:
            self._note(scope, status, time.perf_counter() - began)

    def _may_pass(self, scope: Scope) -> bool:
        if self.token is None or scope["path"] in self.open_paths:
            return True
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        kind, _, token = (given[0] if len(given) == 1 else b"").partition(b" ")
        return hmac.compare_digest(token.strip(), self.token) and kind.lower() == b"bearer"

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self.metrics.answered(route, status, seconds)
        if not access.isEnabledFor(logging.INFO):
            return
        client = scope.get("client")
        record = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "client": client[0] if client else None,
            "method": scope["method"],
            "path": scope["path"][:LONGEST_PATH],
            "status": status,
            "ms": round(1000 * seconds, 3),
            **scope.get("state", {}).get("noted", {}),
        }
        access.info("%s", json.dumps(record))
