"""SIGTERM as Ctrl-C: what a command writes beside its target is removed, and the exit status says why it ended."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def ends_like_ctrl_c() -> Iterator[Callable[[], bool]]:
    """Raise `KeyboardInterrupt` at the first SIGTERM; yields whether it came.

    Parts that end otherwise, such as a training or a service, have handlers of their own inside. Nothing is done
    outside the main thread, under torchrun, which ends ranks by SIGTERM, and where a caller listens to it already.
    """
    came = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # another would cut off the tidying up
        raise KeyboardInterrupt

    alone = "WORLD_SIZE" not in os.environ and threading.current_thread() is threading.main_thread()
    if not alone or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield lambda: False
        return
    signal.signal(signal.SIGTERM, end)
    try:
        yield lambda: came
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
