"""Limits of one request, and reading a body within them: a request over a limit costs next to nothing."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect, Request

from twotower.core.errors import InputError, shown

_MARKS = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[{]|[\]}]', re.DOTALL)


class RefusedError(InputError):
    """Refuse a request by another status than 400.

    Attributes:
        status: of HTTP.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class Limits:
    """Configure the bounds of a request and of the service."""

    k: int = 1000
    history: int = 2000
    exclude: int = 10_000
    only: int = 10_000
    candidates: int = 10_000
    id_length: int = 256
    body_bytes: int = 1 << 20
    body_seconds: float = 30.0
    depth: int = 8
    concurrency: int = 64
    """Requests that are answered or wait for a thread; one more is told to come again."""

    def check_k(self, k: int | None) -> None:
        """Refuse a list that is too long; one that is too short is for the retriever to refuse.

        Raises:
            InputError: if ``k`` is out of range.
        """
        if k is not None and k > self.k:
            raise InputError(f"k = {str(k)[:20]}: one request is answered with at most {self.k} items; ask for fewer")

    def check_length(self, name: str, values: Sized | None, most: int) -> None:
        """Refuse a list that is too long.

        Raises:
            InputError: names the list and its bound.
        """
        if values is not None and len(values) > most:
            less = "leave the oldest out" if name == "history" else "send fewer"
            raise InputError(f"{name} holds {len(values)} ids, and at most {most} are read; {less}")

    def check_ids(self, name: str, ids: Sequence[object]) -> None:
        """Refuse ids that no catalogue has.

        Raises:
            InputError: if an id is too long, or holds half a character.
        """
        for id in ids:
            text = str(id)
            if len(text) > self.id_length:
                raise InputError(f"{name}: an id of {len(text)} characters; at most {self.id_length} are read")
            if not text.isascii() and any("\ud800" <= sign <= "\udfff" for sign in text):
                raise InputError(f"{name}: an id with half a surrogate pair, which is no text; send UTF-8")


def too_slow(limits: Limits) -> RefusedError:
    """Return what a body is refused by that does not come."""
    return RefusedError(408, f"the body did not come within {limits.body_seconds:g} s; send it again")


async def read_body(request: Request, limits: Limits) -> bytes:
    """Return the body.

    Raises:
        RefusedError: 413 if it is too large, 408 if it is too slow.
    """
    too_large = RefusedError(413, f"the body is larger than {limits.body_bytes} bytes; send less")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > limits.body_bytes:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for part in request.stream():
                body += part
                if len(body) > limits.body_bytes:
                    raise too_large
    except TimeoutError:
        raise too_slow(limits) from None
    except ClientDisconnect:
        raise RefusedError(400, "the connection closed before the body had come") from None
    return bytes(body)


async def read_json(request: Request, limits: Limits) -> Any:
    """Return the body's JSON.

    Raises:
        RefusedError: as `read_body`; 415 if it is said to be something else.
        InputError: if it is not JSON, nested too deeply, names a key twice, or holds NaN or infinity.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await read_body(request, limits)
    if kind != "application/json" and (body or kind):
        raise RefusedError(415, "the body must be JSON; send the header Content-Type: application/json")
    if not body:
        return {}
    deep = body.count(b"[") + body.count(b"{") > limits.depth  # a cheap look first: most requests are flat
    if deep and nesting(body, limits.depth) > limits.depth:
        raise InputError(f"the JSON is nested more than {limits.depth} levels deep; send it flat")
    try:
        return json.loads(body, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=each_once)
    except InputError:
        raise
    except RecursionError:
        raise InputError(f"the JSON is nested more than {limits.depth} levels deep; send it flat") from None
    except json.JSONDecodeError as error:
        raise InputError(f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except ValueError:  # not UTF-8, or a number of thousands of digits
        raise InputError("the body is not JSON: its text is not UTF-8, or a number has too many digits") from None


def nesting(body: bytes, most: int) -> int:
    """Count how deep lists and objects lie within each other, up to one more than ``most``.

    Examples:
        >>> nesting(b'{"a": [1, "[[["]}', 8), nesting(b"[" * 100, 8)
        (2, 9)
    """
    depth = deepest = 0
    for mark in _MARKS.finditer(body):
        sign = mark[0][:1]
        if sign in (b"[", b"{"):
            depth += 1
            deepest = max(deepest, depth)
            if deepest > most:
                break
        elif sign != b'"':
            depth -= 1
    return deepest


def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON; of two values under one key, Python's own reading would take the last without a word.

    Raises:
        InputError: if a key comes twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise InputError(f"the body names {shown(twice, 60)} more than once; give it once")
    return found


def _refuse(word: str) -> None:
    raise InputError(f"the body holds {word}, which is no number in JSON; leave it out, or send null")


def _finite(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise InputError(f"the body holds {digits[:30]}, which is too large a number; leave it out, or send null")
    return value
