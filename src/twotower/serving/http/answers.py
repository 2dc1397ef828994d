"""Answers of the service: JSON without NaN, and errors of one line."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from twotower.core.errors import UnavailableError
from twotower.core.terminal import visible
from twotower.serving.http.limits import RefusedError
from twotower.serving.retriever import Answer
from twotower.serving.vocabulary import Record, UnknownIdError


class Json(Response):
    """Encode JSON as UTF-8; what JSON cannot hold is an error of ours, and never sent."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Return the bytes of the body."""
        return encoded(content)


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def encoded(content: Any) -> bytes:
    """Return JSON in UTF-8; half a surrogate pair comes out as a question mark."""
    return _ENCODER.encode(content).encode("utf-8", "replace")


def row(item: Answer | Record) -> dict[str, Any]:
    """Return an item as one flat record; its id and score win over raw columns of those names."""
    own: dict[str, Any] = {"id": item.id}
    if isinstance(item, Answer):
        own["score"] = item.score if math.isfinite(item.score) else None
    return own | {name: value for name, value in item.columns.items() if name not in ("id", "score")}


def listed(answers: Sequence[Answer], notices: Sequence[str], **more: Any) -> dict[str, Any]:
    """Return a list of items, with the notices that came up on the way."""
    return {**more, "items": [row(answer) for answer in answers], "notices": list(notices)}


def error(text: str, status: int, headers: Mapping[str, str] | None = None) -> Json:
    """Return an error of one line."""
    return Json({"error": visible(" ".join(text.split()))[:1000]}, status, headers)


async def on_input_error(request: Request, problem: Exception) -> Response:
    """Answer bad input by its status: 404 for an unknown id, what `RefusedError` says, 400 for all else.

    503 where an index on another machine does not answer.
    """
    if isinstance(problem, RefusedError):
        busy = {"Retry-After": "1"} if problem.status == 503 else None
        return error(str(problem), problem.status, busy)
    if isinstance(problem, UnavailableError):
        return error(str(problem), 503, {"Retry-After": "1"})
    return error(str(problem), 404 if isinstance(problem, UnknownIdError) else 400)
