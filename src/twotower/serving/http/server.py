"""Server: runs the application until it is stopped."""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path

import torch
import uvicorn

from twotower.core.errors import InputError
from twotower.serving.http.app import create_app
from twotower.serving.http.explorer.files import HOME
from twotower.serving.http.explorer.shelf import Shelf
from twotower.serving.http.gate import access
from twotower.serving.http.limits import Limits
from twotower.serving.http.swap import Loader, Slot

log = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "::1", "localhost")
SECONDS_TO_STOP = 30
SHORTEST_TOKEN = 16


def read_token(path: Path) -> str:
    """Return the token that a file holds.

    Raises:
        InputError: if there is no such file, or its one line is too short, or not plain ASCII.
    """
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a token ({getattr(error, 'strerror', None) or error})") from None
    if len(token) < SHORTEST_TOKEN or not token.isprintable() or " " in token:
        raise InputError(f"{path}: a token is one word of at least {SHORTEST_TOKEN} letters and digits")
    return token


def serve(
    bundle: Path,
    then: Path | None,
    loader: Loader,
    *,
    host: str,
    port: int,
    token: str | None,
    limits: Limits,
    threads: int | None,
    explorer: bool = False,
    beside: Path | None = None,
) -> None:
    """Load, listen and answer until SIGTERM or Ctrl-C; requests under way are then answered to their end.

    With ``explorer`` there is a page at ``/explorer/`` for people, which shows ``beside`` next to the first where it is
    given.

    Raises:
        InputError: if a bundle cannot be served.
    """
    slot = Slot(loader.load(bundle, then), loader)
    _log_here()
    torch.set_num_threads(1)  # requests share the cores: one thread each
    if token is None and host not in LOOPBACK:
        log.warning("%s: whoever reaches this address may ask; give --token-file", host)
    shelf = None
    if explorer:
        shelf = Shelf(slot, None if beside is None else loader.load(beside, None))
        log.info("explorer: a page for people at %s", HOME)
    app = create_app(slot, token=token, limits=limits, threads=threads, explorer=shelf)
    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it once more when all is answered
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SECONDS_TO_STOP,
    )
    uvicorn.Server(config).run()


def _log_here() -> None:
    """Access log as JSON lines on standard output; what happens to the service on standard error."""
    quiet = logging.getLogger("twotower").getEffectiveLevel() > logging.WARNING
    for name, stream, form in (
        (access.name, sys.stdout, "%(message)s"),
        ("twotower.serving.http", sys.stderr, "%(asctime)s %(levelname)s %(message)s"),
        ("uvicorn.error", sys.stderr, "%(asctime)s %(levelname)s %(message)s"),
    ):
        handler = logging.StreamHandler(stream)
        handler.setFormatter(logging.Formatter(form))
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(logging.ERROR if quiet and stream is sys.stderr else logging.INFO)
        logger.propagate = False
