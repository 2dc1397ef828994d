"""A service within the test's own process, asked through ASGI without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TOKEN = "a-token-for-tests-only"


@pytest.fixture
def build() -> Callable[..., Any]:
    """Make the application of a bundle; settings of the loader and of the application by name.

    ``explorer`` is True or False, and ``beside`` the folder of its second bundle.
    """
    pytest.importorskip("fastapi")

    def made(folder: Path, then: Path | None = None, **settings: Any) -> Any:
        from twotower.serving.http.app import create_app
        from twotower.serving.http.explorer.shelf import Shelf
        from twotower.serving.http.swap import Loader, Slot

        names = ("allow_collapsed", "recall_floor")
        loader = Loader(**{name: settings.pop(name) for name in names if name in settings})
        slot, beside = Slot(loader.load(folder, then), loader), settings.pop("beside", None)
        if settings.pop("explorer", False) or beside:
            settings["explorer"] = Shelf(slot, None if beside is None else loader.load(beside, None))
        return create_app(slot, **settings)

    return made


@pytest.fixture
def ask() -> Callable[..., Any]:
    """Send one request to an application, and return the response."""
    httpx = pytest.importorskip("httpx")

    def sent(app: Any, path: str, body: Any = None, *, method: str = "", **more: Any) -> Any:
        async def send() -> Any:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
                given = {"content": body} if isinstance(body, bytes) else {} if body is None else {"json": body}
                if isinstance(body, bytes):
                    more.setdefault("headers", {})["Content-Type"] = "application/json"
                chosen = method or ("GET" if body is None else "POST")
                return await client.request(chosen, path, **given, **more)

        return asyncio.run(send())

    return sent
