"""Interrupts: Ctrl-C and SIGTERM as a flag that the loop reads after each step, and ends that must come."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

GRACE = 20.0
"""Seconds that a process has after SIGTERM to come to an end by itself, where the caller does not say."""


class Stopped(KeyboardInterrupt):
    """End a training after the step in which Ctrl-C came, once its checkpoint is written; a second Ctrl-C is none.

    Several ranks end after the step that follows it, all the same one.
    """


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


@contextlib.contextmanager
def ends_when_told(text: str, tell: Callable[[], None], *, grace: float = GRACE) -> Iterator[None]:
    """Raise an error at SIGTERM, which torchrun sends to the ranks that are left when one dies.

    A block inside may have a handler of its own, such as `stop_requested`. What has not come to an end ``grace``
    seconds later, such as a wait for a device that will not answer, is cut off with exit status 1.

    Args:
        text: of the error.
        tell: called before the process is cut off, from another thread.
        grace: seconds; torchrun kills after 30.

    Raises:
        ConnectionError: after SIGTERM.
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise ConnectionError(text)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    over = threading.Event()
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def watch() -> None:
        while number := reader.recv(1):  # Python writes each signal's number there, even while the main thread is busy
            if number[0] == signal.SIGTERM and not over.wait(grace):
                tell()
                os._exit(1)

    handler = signal.signal(signal.SIGTERM, end)
    wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGTERM, handler)
        writer.close()
        watcher.join()
        reader.close()
