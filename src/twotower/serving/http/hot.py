"""Short way of the commonest request: recommendations for a known user, and nothing else asked."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NamedTuple

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from twotower.serving.http.answers import encoded, error, listed
from twotower.serving.http.limits import Limits, each_once, too_slow
from twotower.serving.http.service import Service

LONGEST_BODY = 1024
AT_ONCE = 0.001
"""Seconds of CPU up to which an answer is made between two others; a thread would cost a good part of that."""

_DECODER = json.JSONDecoder(object_pairs_hook=each_once)
_KEYS = frozenset({"user", "k", "include_seen"})


class Question(NamedTuple):
    """Hold a request that is taken."""

    user: str
    k: int
    include_seen: bool | None


class Hot:
    """Answer ``POST /v1/recommend`` with ``{"user": …, "k": …, "include_seen": …}`` as ASGI middleware.

    It takes only what is right in every way. All else goes on to the routes behind it, body included, which answer it
    in full: other keys, unknown users, whatever is refused.

    Args:
        app: what it stands before.
        service: answers.
    """

    path = "/v1/recommend"

    def __init__(self, app: ASGIApp, *, service: Service) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] != self.path or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        limits = self.service.limits
        try:
            async with asyncio.timeout(limits.body_seconds):
                came = await _received(receive)
        except TimeoutError:
            scope["route"] = self
            await error(str(too_slow(limits)), 408)(scope, receive, send)
            return
        body = await self._answer(scope, came)
        if body is None:
            await self.app(scope, _again(came, receive), send)
            return
        scope["route"] = self  # for the counts
        scope.setdefault("state", {})["noted"] = {"answered_by": "user"}
        headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, came: list[Message]) -> bytes | None:
        """The body of the answer; None where the request is not one of these."""
        service, served = self.service, self.service.slot.served
        known = served.known
        if known is None or service.workers.full or not service.ready:
            return None
        asked = question(scope, came, service.limits)
        if asked is None or asked.k > len(served.retriever.bundle.item_ids):
            return None
        row = known.row(asked.user)
        if row is None:
            return None
        if known.seconds(row) <= AT_ONCE:
            answers = known.recommend(row, asked.k, include_seen=asked.include_seen)
        else:
            answers = await service.workers.run(lambda: known.recommend(row, asked.k, include_seen=asked.include_seen))
        return encoded(listed(answers, (), answered_by="user", bundle=served.digest))


async def _received(receive: Receive) -> list[Message]:
    """The body's messages, to its end or until it is longer than those that are taken."""
    came, length = [await receive()], 0
    while came[-1].get("more_body"):
        length += len(came[-1].get("body", b""))
        if length > LONGEST_BODY:
            break
        came.append(await receive())
    return came


def question(scope: Scope, came: list[Message], limits: Limits) -> Question | None:
    """Return what is asked, where it came whole and is right; None: let the route read it, and say what is not.

    Args:
        scope: of the request.
        came: messages of its body.
        limits: what a request may ask for.
    """
    body = b"".join(part.get("body", b"") for part in came)
    if came[-1]["type"] != "http.request" or came[-1].get("more_body") or len(body) > LONGEST_BODY:
        return None
    if [value for name, value in scope["headers"] if name == b"content-type"] != [b"application/json"]:
        return None
    try:
        asked: Any = _DECODER.decode(body.decode())
    except (ValueError, RecursionError):
        return None
    if type(asked) is not dict or not asked.keys() <= _KEYS:
        return None
    user, k, include_seen = asked.get("user"), asked.get("k", 10), asked.get("include_seen")
    if type(user) is int:
        user = str(user)
    if type(user) is not str or len(user) > limits.id_length or type(k) is not int or not 1 <= k <= limits.k:
        return None
    return Question(user, k, include_seen) if include_seen is None or type(include_seen) is bool else None


def _again(came: list[Message], receive: Receive) -> Receive:
    """Receive what was received once more, and then what follows."""
    waiting = came[::-1]

    async def received() -> Message:
        return waiting.pop() if waiting else await receive()

    return received
