"""The application: routes, their description for OpenAPI, and what answers an error."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from twotower.core.errors import InputError
from twotower.core.version import __version__
from twotower.serving.http.answers import Json, error, on_input_error
from twotower.serving.http.explorer.routes import PAGE, add_explorer
from twotower.serving.http.explorer.shelf import Shelf
from twotower.serving.http.gate import OPEN, Gate
from twotower.serving.http.hot import Hot
from twotower.serving.http.limits import Limits, RefusedError
from twotower.serving.http.metrics import Metrics
from twotower.serving.http.models import Rank, Recommend, SimilarTo, Swap
from twotower.serving.http.models import Request as Body
from twotower.serving.http.notices import install
from twotower.serving.http.service import Service
from twotower.serving.http.swap import Slot

log = logging.getLogger(__name__)

ANSWERS = {
    400: "The request is wrong, and the text says where.",
    401: "A token is wanted.",
    404: "An id is unknown; the closest known one is named.",
    408: "The body came too slowly.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    503: "Too many requests at once; Retry-After says when to come again.",
}
"""What a route may answer beside 200."""


def create_app(
    slot: Slot,
    *,
    token: str | None = None,
    limits: Limits | None = None,
    threads: int | None = None,
    explorer: Shelf | None = None,
) -> FastAPI:
    """Return the ASGI application that serves what the slot holds.

    Args:
        slot: what is served, and how another is loaded.
        token: what every request must send, but for the health routes; None: any may ask, and none may swap.
        limits: what a request may ask for.
        threads: requests that are answered at the same time; None: one a core.
        explorer: what the explorer's page shows; None: there is no such page.
    """
    metrics = Metrics()
    service = Service(slot, limits or Limits(), metrics, threads or os.cpu_count() or 1)
    install()

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        listened = _swap_on_hangup(service)
        yield
        service.ready = False
        if listened:
            asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)
        service.workers.stop()

    app = FastAPI(
        title="twotower",
        version=__version__,
        description="Recommendations from a bundle: for users, for histories, like an item.",
        lifespan=lifespan,
        docs_url=None,  # its pages would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    app.add_middleware(Hot, service=service)
    app.add_middleware(Gate, metrics=metrics, token=token, open_paths=OPEN if explorer is None else (*OPEN, *PAGE))
    app.add_exception_handler(InputError, on_input_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    _add_routes(app, service, may_swap=token is not None)
    if explorer is not None:
        add_explorer(app, service, explorer, _described(ANSWERS))
    return app


def _add_routes(app: FastAPI, service: Service, *, may_swap: bool) -> None:
    answers = _described(ANSWERS)
    get: dict[int | str, dict[str, Any]] = {status: answers[status] for status in (400, 401, 404, 503)}

    @app.post("/v1/recommend", summary="Recommend", responses=answers, openapi_extra=_takes(Recommend))
    async def recommend(request: Request) -> Response:
        """Items for a known user, for one with this history, or for both; ``answered_by`` says which."""
        return Json(await service.recommend(request))

    @app.post("/v1/rank", summary="Rank", responses=answers, openapi_extra=_takes(Rank))
    async def rank(request: Request) -> Response:
        """These candidates, best first, by the whole model's score."""
        return Json(await service.rank(request))

    @app.post("/v1/similar", summary="Similar", responses=answers, openapi_extra=_takes(SimilarTo))
    async def similar(request: Request) -> Response:
        """The items nearest to one."""
        return Json(await service.similar(request))

    @app.get("/v1/items/{id:path}", summary="Item", responses=get)
    async def item(id: str) -> Response:
        """What is known of one item: its id and raw columns."""
        return Json(await service.item(id))

    @app.post(
        "/admin/swap",
        summary="Swap",
        responses=answers
        | {403: answers[401], 409: {**answers[400], "description": "RefusedError; the old one stays."}},
        openapi_extra=_takes(Swap, required=False),
    )
    async def swap(request: Request) -> Response:
        """Serve another bundle from now on; refused where it fails its hashes, cannot be read or has collapsed."""
        if not may_swap:
            raise RefusedError(403, "this service takes no swaps over HTTP; start it with --token-file")
        return Json(await service.swap(request))

    @app.get("/healthz", summary="Alive")
    async def healthz() -> Response:
        """The process answers."""
        return Json({"status": "alive"})

    @app.get("/readyz", summary="Ready", responses={503: answers[503]})
    async def readyz() -> Response:
        """The bundle is loaded, the server of its index answers where it has one, and requests are taken."""
        trouble = await service.trouble()
        return error(trouble, 503) if trouble else Json({"ready": True, **service.about()})

    @app.get("/metrics", summary="Metrics", response_class=PlainTextResponse, responses={401: answers[401]})
    async def metrics() -> Response:
        """Counts and times for Prometheus."""
        served = service.slot.served
        text = service.metrics.text(model=served.model, digest=served.digest, ready=service.ready)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


def _described(texts: Mapping[int, str]) -> dict[int | str, dict[str, Any]]:
    content = {"application/json": {"schema": {"type": "object"}}}
    return {status: {"description": text, "content": content} for status, text in texts.items()}


def _takes(kind: type[Body], *, required: bool = True) -> dict[str, Any]:
    content = {"application/json": {"schema": kind.model_json_schema()}}
    return {"requestBody": {"required": required, "content": content}}


async def _on_http_error(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, HTTPException)
    if problem.status_code == 404:
        return error("no such route; see /openapi.json", 404)
    if problem.status_code == 405:
        return error(f"{request.method} is not taken here; see /openapi.json", 405, problem.headers)
    return error(str(problem.detail), problem.status_code, problem.headers)


def _swap_on_hangup(service: Service) -> bool:
    """Read the bundle again on SIGHUP, where the platform has it and the loop can listen for it."""
    if not hasattr(signal, "SIGHUP") or threading.current_thread() is not threading.main_thread():
        return False
    running: set[asyncio.Task[None]] = set()

    async def swap() -> None:
        try:
            now = await service.exchange()
            log.info("SIGHUP: serving %s %s", now["model"], now["bundle"])
        except RefusedError as problem:
            log.error("SIGHUP: %s", problem)
        except Exception:
            log.exception("SIGHUP: not swapped, what was served stays")

    def on_hangup() -> None:
        task = asyncio.get_running_loop().create_task(swap())
        running.add(task)
        task.add_done_callback(running.discard)

    try:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, on_hangup)
    except RuntimeError:  # a loop that cannot listen for signals
        return False
    return True
