"""Routes of the explorer, added to the service's application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from twotower.serving.http.answers import Json
from twotower.serving.http.explorer import requests
from twotower.serving.http.explorer.answers import Answers
from twotower.serving.http.explorer.files import HOME, page_files
from twotower.serving.http.explorer.shelf import Shelf
from twotower.serving.http.models import Request as Body
from twotower.serving.http.service import Service

API = HOME + "api/"
PAGE = (HOME.removesuffix("/"), *page_files())
"""Paths of the page itself, which hold no data and need no token: a browser sends none when it opens a page."""


def add_explorer(app: FastAPI, service: Service, shelf: Shelf, responses: dict[int | str, dict[str, Any]]) -> None:
    """Add the page and the routes that it asks.

    Args:
        app: of the service.
        service: whose limits and threads the routes keep to.
        shelf: what is asked.
        responses: how OpenAPI describes refusals.
    """
    answers = Answers(service, shelf)

    async def home(_: Request) -> Response:
        return RedirectResponse("explorer/", 308)  # relative: a proxy may have put the service below a path

    app.add_route(PAGE[0], home, include_in_schema=False)
    for path, response in page_files().items():
        app.add_route(path, _always(response), include_in_schema=False)

    @app.get(API + "about", summary="Explorer: bundles", responses={status: responses[status] for status in (401, 503)})
    async def about() -> Response:
        """What is served: the bundle of the service, and the one beside it."""
        return _data(await answers.about())

    asked: list[tuple[str, type[Body], Callable[[Request], Awaitable[dict[str, Any]]], str]] = [
        ("search", requests.Search, answers.search, "Items by the letters of their titles."),
        ("seen", requests.Seen, answers.seen, "What a known user has seen, the latest first."),
        ("recommend", requests.Recommend, answers.recommend, "Items for a user or a history, from either bundle."),
        ("filter", requests.Filter, answers.filter, "How many items a filter lets through."),
        ("why", requests.Why, answers.why, "Why one item has its score: the share of each item of the history."),
        ("map", requests.Map, answers.map, "Item vectors on a plane."),
        ("place", requests.Place, answers.place, "Where a user and some items lie on the map."),
    ]
    for name, kind, answer, text in asked:
        body = {"required": True, "content": {"application/json": {"schema": kind.model_json_schema()}}}
        app.post(
            API + name,
            summary=f"Explorer: {name}",
            description=text,
            responses=responses,
            openapi_extra={"requestBody": body},
            name=f"explorer_{name}",
        )(_posted(answer))


def _always(response: Response) -> Callable[[Request], Awaitable[Response]]:
    async def send(_: Request) -> Response:
        return response

    return send


def _posted(answer: Callable[[Request], Awaitable[dict[str, Any]]]) -> Callable[[Request], Awaitable[Response]]:
    async def post(request: Request) -> Response:
        return _data(await answer(request))

    return post


def _data(content: dict[str, Any]) -> Json:
    return Json(content, headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"})
