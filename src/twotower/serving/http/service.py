"""Routes: a request's JSON in, an answer's JSON out, the model called in a thread between."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request

from twotower.core.errors import InputError
from twotower.index.abilities import AnswersByAddress
from twotower.serving.asking import answered_by
from twotower.serving.http.answers import listed, row
from twotower.serving.http.limits import Limits, RefusedError, read_json
from twotower.serving.http.metrics import Metrics
from twotower.serving.http.models import Id, Rank, Recommend, SimilarTo, Swap, validated
from twotower.serving.http.notices import gather
from twotower.serving.http.swap import Slot
from twotower.serving.http.workers import Workers
from twotower.serving.retriever import Answer


class Service:
    """Serve one bundle, or two, over HTTP.

    Args:
        slot: what is served.
        limits: what a request may ask for.
        metrics: what is counted.
        threads: requests that are answered at the same time.
    """

    def __init__(self, slot: Slot, limits: Limits, metrics: Metrics, threads: int) -> None:
        self.slot, self.limits, self.metrics = slot, limits, metrics
        self.workers = Workers(threads, limits.concurrency, metrics)
        self.ready = True

    async def trouble(self) -> str:
        """Return why requests cannot be answered now, such as an index's server that is silent; empty: they can."""
        index = self.slot.served.retriever.finder.index
        if self.ready and isinstance(index, AnswersByAddress):
            try:
                await asyncio.to_thread(index.ping)
            except InputError as problem:
                return str(problem)
        return "" if self.ready else "the service is stopping"

    async def recommend(self, request: Request) -> dict[str, Any]:
        """Recommend items for a user or a history."""
        asked = validated(Recommend, await read_json(request, self.limits))
        self._check_asker(asked.user, asked.history)
        self.limits.check_k(asked.k)
        self.limits.check_length("exclude", asked.exclude, self.limits.exclude)
        self.limits.check_ids("exclude", asked.exclude)
        self._check_only(asked.only)
        served = self.slot.served

        def call() -> tuple[list[Answer], list[str], str]:
            notices = gather()
            answers = served.asked.recommend(
                asked.user,
                history=asked.history,
                features=asked.features,
                k=asked.k,
                exclude=asked.exclude,
                include_seen=asked.include_seen,
                filter=asked.filter,
                only=asked.only,
            )
            by = answered_by(served.retriever.bundle, asked.user, asked.history, asked.features)
            return answers, notices, by

        answers, notices, by = await self.workers.run(call)
        _note(request, by)
        return listed(answers, notices, answered_by=by, bundle=served.digest)

    async def rank(self, request: Request) -> dict[str, Any]:
        """Rank these candidates for a user or a history."""
        asked = validated(Rank, await read_json(request, self.limits))
        self._check_asker(asked.user, asked.history)
        self.limits.check_length("candidates", asked.candidates, self.limits.candidates)
        self.limits.check_ids("candidates", asked.candidates)
        served = self.slot.served

        def call() -> tuple[list[Answer], list[str], str]:
            notices = gather()
            answers = served.ranker.rank(
                asked.user, asked.candidates, history=asked.history, features=asked.features, k=asked.k
            )
            by = answered_by(served.ranker.bundle, asked.user, asked.history, asked.features)
            return answers, notices, by

        answers, notices, by = await self.workers.run(call)
        _note(request, by)
        return listed(answers, notices, answered_by=by, bundle=served.digest)

    async def similar(self, request: Request) -> dict[str, Any]:
        """Find items like one."""
        asked = validated(SimilarTo, await read_json(request, self.limits))
        self.limits.check_k(asked.k)
        self.limits.check_ids("item", [asked.item])
        self._check_only(asked.only)
        served = self.slot.served

        def call() -> tuple[list[Answer], list[str]]:
            notices = gather()
            answers = served.retriever.similar(str(asked.item), k=asked.k, filter=asked.filter, only=asked.only)
            return answers, notices

        answers, notices = await self.workers.run(call)
        return listed(answers, notices, bundle=served.digest)

    async def item(self, id: str) -> dict[str, Any]:
        """Return what is known of one item."""
        self.limits.check_ids("the path", [id])
        served = self.slot.served
        return row((await self.workers.run(lambda: served.retriever.items([id])))[0])

    async def swap(self, request: Request) -> dict[str, Any]:
        """Serve another bundle, if it may be."""
        asked = validated(Swap, await read_json(request, self.limits))
        return await self.exchange(asked.bundle, asked.then)

    async def exchange(self, bundle: str | None = None, then: str | None = None) -> dict[str, Any]:
        """Load beside the traffic, in a thread of its own, and say what is served now.

        Raises:
            RefusedError: as `Slot.swap`.
        """
        try:
            served = await asyncio.to_thread(self.slot.swap, bundle, then)
        except RefusedError:
            self.metrics.swapped("refused")
            raise
        self.metrics.swapped("done")
        return self.about() | {"folder": served.folder.name}

    def about(self) -> dict[str, Any]:
        """Return what is served."""
        served = self.slot.served
        items = len(served.retriever.bundle.item_ids)
        return {"model": served.model, "bundle": served.digest, "items": items}

    def _check_only(self, only: list[Id] | None) -> None:
        self.limits.check_length("only", only, self.limits.only)
        self.limits.check_ids("only", only or [])

    def _check_asker(self, user: Id | None, history: list[Id] | None) -> None:
        self.limits.check_length("history", history, self.limits.history)
        self.limits.check_ids("history", history or [])
        self.limits.check_ids("user", [] if user is None else [user])


def _note(request: Request, answered_by: str) -> None:
    """Hand to the access log what a request was answered from."""
    request.scope.setdefault("state", {})["noted"] = {"answered_by": answered_by}
