"""Notices: warnings of the package while it answers one request, collected for its answer."""

from __future__ import annotations

import logging
from contextvars import ContextVar

from twotower.core.terminal import visible

_texts: ContextVar[list[str] | None] = ContextVar("twotower_notices", default=None)

MOST = 20
"""Notices that one answer carries."""


class Gatherer(logging.Handler):
    """Add each warning to the list of the request that it came from; those of no request go on to the log."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        """Note a record."""
        texts = _texts.get()
        if texts is None:
            alone = not logging.getLogger().handlers and len(logging.getLogger("twotower").handlers) == 1
            if alone and logging.lastResort is not None and record.levelno >= logging.lastResort.level:
                logging.lastResort.handle(record)
        elif len(texts) < MOST:
            texts.append(visible(record.getMessage()))


def gather() -> list[str]:
    """Return a new list that fills with the warnings of this context from now on."""
    texts: list[str] = []
    _texts.set(texts)
    return texts


def install() -> None:
    """Attach one `Gatherer` to the package's logger, however many services there are."""
    ours = logging.getLogger("twotower")
    if not any(isinstance(handler, Gatherer) for handler in ours.handlers):
        ours.addHandler(Gatherer())
