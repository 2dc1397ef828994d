"""Ctrl-C as a wish to stop after the current step, so that what is saved is never half a step."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def stop_requested(*, echo: float = 0.0) -> Iterator[Callable[[], bool]]:
    """Yield a function that is true once Ctrl-C (or SIGTERM) came; a second Ctrl-C stops at once.

    Outside the main thread signals cannot be caught, and the function stays false.

    Args:
        echo: seconds in which a second signal is the first one again: torchrun passes on what the terminal has sent.
    """
    asked = False
    last = 0.0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal asked, last
        if asked and time.monotonic() - last >= echo:
            raise KeyboardInterrupt
        if not asked:
            asked, last = True, time.monotonic()

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
