"""Notices: warnings that a command logs, collected for its JSON."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from twotower.core.terminal import visible


@contextlib.contextmanager
def gathered() -> Iterator[list[str]]:
    """Yield a list that fills with the warnings of the package; where they are shown does not change."""
    ours = logging.getLogger("twotower")
    handler = _Gatherer(None if ours.hasHandlers() else logging.lastResort)
    ours.addHandler(handler)
    try:
        yield handler.texts
    finally:
        ours.removeHandler(handler)


def is_quiet() -> bool:
    """Return whether the caller wants errors and results alone (``-q``)."""
    return logging.getLogger("twotower").getEffectiveLevel() > logging.WARNING


class _Gatherer(logging.Handler):
    """Keeps the text of each warning, and hands it to the one who would have shown it."""

    def __init__(self, shows: logging.Handler | None) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []
        self.shows = shows

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(visible(record.getMessage()))
        if self.shows is not None and record.levelno >= self.shows.level:
            self.shows.handle(record)
