"""Answers of the explorer: a request's JSON in, an answer's JSON out, each with the milliseconds it took."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any

from starlette.requests import Request

from twotower.core.errors import InputError
from twotower.core.version import __version__
from twotower.serving.asking import answered_by, asker_of
from twotower.serving.http.explorer import requests
from twotower.serving.http.explorer.shelf import Drawn, Shelf, about, explains
from twotower.serving.http.limits import read_json
from twotower.serving.http.models import R, validated
from twotower.serving.http.notices import gather
from twotower.serving.http.service import Service
from twotower.serving.http.swap import Served

MOST_CAUSES = 50
"""Items of the history that an explanation names, those of the largest share, up or down."""


class Answers:
    """Answer the page's questions, within the limits and in the threads of the service.

    Args:
        service: whose limits and threads.
        shelf: what is asked.
    """

    def __init__(self, service: Service, shelf: Shelf) -> None:
        self._service, self._shelf, self._limits = service, shelf, service.limits

    async def about(self) -> dict[str, Any]:
        """Return what is served, and what a request may hold."""
        found = [(which, served, await self._drawn(served)) for which, served in self._shelf.all().items()]

        def call() -> dict[str, Any]:
            bundles = {which: about(served, drawn) for which, served, drawn in found}
            return {"version": __version__, "bundles": bundles, "most": {"history": self._limits.history}}

        return await self._timed(call)

    async def search(self, request: Request) -> dict[str, Any]:
        """Find items of the first bundle."""
        asked = await self._read(requests.Search, request)
        self._check_k(asked.k)
        self._limits.check_ids("text", [asked.text])
        titles = (await self._drawn(self._shelf.take("first"))).titles

        def call() -> dict[str, Any]:
            return {"items": [titles.shown(*record) for record in titles.search(asked.text, asked.k)]}

        return await self._timed(call)

    async def seen(self, request: Request) -> dict[str, Any]:
        """Return the latest that a known user has seen."""
        asked = await self._read(requests.Seen, request)
        self._check_k(asked.k)
        self._limits.check_ids("user", [asked.user])
        served = self._shelf.take("first")
        titles = (await self._drawn(served)).titles

        def call() -> dict[str, Any]:
            seen = served.retriever.seen(asked.user)
            return {"items": [titles.shown(*record) for record in seen[: asked.k]], "seen": len(seen)}

        return await self._timed(call)

    async def recommend(self, request: Request) -> dict[str, Any]:
        """Recommend items from either bundle."""
        asked, served = await self._read_asker(requests.Recommend, request)
        self._limits.check_k(asked.k)
        titles = (await self._drawn(served)).titles

        def call() -> dict[str, Any]:
            found = served.asked.recommend(asked.user, history=asked.history, k=asked.k, filter=asked.filter)
            items = [{**titles.shown(one.id, one.columns), "score": _finite(one.score)} for one in found]
            by = answered_by(served.retriever.bundle, asked.user, asked.history)
            return {"items": items, "answered_by": by, "bundle": served.digest}

        return await self._timed(call)

    async def filter(self, request: Request) -> dict[str, Any]:
        """Return how many items of a bundle a filter lets through."""
        asked = await self._read(requests.Filter, request)
        served = self._shelf.take(asked.bundle)

        def call() -> dict[str, Any]:
            allowed = served.retriever.finder.filters.allowed(asked.filter)
            total = len(served.retriever.bundle.item_ids)
            return {"passing": total if allowed is None else allowed.number, "items": total}

        return await self._timed(call)

    async def why(self, request: Request) -> dict[str, Any]:
        """Return the share of each item of the history in the score of one item."""
        asked, served = await self._read_asker(requests.Why, request)
        self._limits.check_ids("item", [asked.item])
        titles = (await self._drawn(served)).titles

        def call() -> dict[str, Any]:
            by = explains(served)
            (why,) = by.explain(asked.user, [asked.item], history=asked.history)
            (item,) = by.items([asked.item])
            largest = sorted(why.causes, key=lambda cause: -abs(cause.share))[:MOST_CAUSES]
            told = [{**titles.shown(one.id, one.columns), "share": _finite(one.share)} for one in largest]
            return {
                "item": titles.shown(*item),
                "score": _finite(why.score),
                "exact": why.exact,
                "model": str(by.bundle.manifest["model"]["name"]),
                "causes": sorted(told, key=lambda cause: -(cause["share"] or 0.0)),
                "left_out": len(why.causes) - len(told),
            }

        return await self._timed(call)

    async def map(self, request: Request) -> dict[str, Any]:
        """Return the map of a bundle."""
        asked = await self._read(requests.Map, request)
        served = self._shelf.take(asked.bundle)
        drawn = await self._drawn(served)
        titles, space, why_not = drawn.titles, drawn.space, drawn.no_space

        def call() -> dict[str, Any]:
            if space is None:
                return {"items": [], "points": [], "note": why_not}
            records = served.retriever.bundle.item_vocabulary.records(space.rows)
            shown = [titles.shown(*record) for record in records]
            return {"items": shown, "points": space.points, "note": space.note}

        return await self._timed(call)

    async def place(self, request: Request) -> dict[str, Any]:
        """Return where the user and some items lie on the map of a bundle."""
        asked, served = await self._read_asker(requests.Place, request)
        self._limits.check_length("items", asked.items, self._limits.history)
        self._limits.check_ids("items", asked.items)
        space, retriever = (await self._drawn(served)).space, served.retriever

        def call() -> dict[str, Any]:
            if space is None:
                return {"user": [], "items": {}}
            known = retriever.bundle.item_vocabulary.known([str(item) for item in asked.items])
            points = space.items(list(known.values()))
            user = space.user(asker_of(retriever.bundle, asked.user, asked.history))
            return {"user": user, "items": dict(zip(known, points, strict=True))}

        return await self._timed(call)

    async def _drawn(self, served: Served) -> Drawn:
        """What is computed once, in a thread beside those that answer: after a swap it may take a second."""
        return await asyncio.to_thread(self._shelf.drawn, served)

    async def _read(self, kind: type[R], request: Request) -> R:
        return validated(kind, await read_json(request, self._limits))

    async def _read_asker(self, kind: type[R], request: Request) -> tuple[R, Served]:
        asked = await self._read(kind, request)
        assert isinstance(asked, requests.Asked)
        self._limits.check_length("history", asked.history, self._limits.history)
        self._limits.check_ids("history", asked.history or [])
        self._limits.check_ids("user", [] if asked.user is None else [asked.user])
        return asked, self._shelf.take(asked.bundle)

    def _check_k(self, k: int) -> None:
        if k < 1:
            raise InputError(f"k must be at least 1, got {str(k)[:20]}")
        self._limits.check_k(k)

    async def _timed(self, call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Answer in a thread of the service, with the notices that came up and the milliseconds of the call alone."""

        def timed() -> dict[str, Any]:
            notices = gather()
            began = time.perf_counter()
            answer = call()
            return {**answer, "notices": notices, "ms": round(1000 * (time.perf_counter() - began), 3)}

        return await self._service.workers.run(timed)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
