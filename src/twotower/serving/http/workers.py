"""Threads in which models answer, and a bound on how many requests may wait for one."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from twotower.serving.http.limits import RefusedError
from twotower.serving.http.metrics import Metrics

T = TypeVar("T")


class Workers:
    """Run calls in threads; beyond a bound, refuse at once, so that the accepted ones are answered in time.

    Args:
        threads: calls that run at the same time.
        most: calls that run or wait.
        metrics: is told how many there are.
    """

    def __init__(self, threads: int, most: int, metrics: Metrics) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="twotower-serve")
        self._lock = threading.Lock()
        self._most = most
        self._metrics = metrics

    @property
    def full(self) -> bool:
        """Return whether as many calls run or wait as may."""
        return self._metrics.in_flight >= self._most

    async def run(self, call: Callable[[], T]) -> T:
        """Return what ``call`` returns, run in a thread with the context of the caller.

        Raises:
            RefusedError: 503 if too many calls wait.
        """
        with self._lock:
            if self.full:
                raise RefusedError(503, f"{self._most} requests are being answered; try again in a second")
            self._metrics.in_flight += 1
        context = contextvars.copy_context()
        try:
            job: Future[T] = self._pool.submit(context.run, call)
        except RuntimeError:
            self._done(None)
            raise RefusedError(503, "the service is stopping; ask another") from None
        job.add_done_callback(self._done)
        return await asyncio.wrap_future(job)

    def stop(self) -> None:
        """Take no more calls; those under way go on to their end."""
        self._pool.shutdown(wait=False)

    def _done(self, _: object) -> None:
        with self._lock:
            self._metrics.in_flight -= 1
