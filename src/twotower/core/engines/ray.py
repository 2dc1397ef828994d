"""Engine of a Ray cluster, by its address: an adapter of a few lines over the public calls of ``ray``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twotower.core.engines.base import TRIES, Task, Work, lost
from twotower.core.errors import InputError, shown


class Ray:
    """Run tasks on a Ray cluster.

    Args:
        address: ``ray://host:port``.

    Raises:
        InputError: if ``ray`` is not installed.
        ConnectionError: if no cluster answers there.
    """

    def __init__(self, address: str) -> None:
        try:
            import ray
        except ImportError:
            raise InputError("ray:// engines need Ray: pip install 'ray[client]'") from None
        self.name, self._library = address, ray
        try:
            ray.init(address, ignore_reinit_error=True)
        except (ConnectionError, TimeoutError, RuntimeError, ValueError) as error:
            raise ConnectionAbortedError(f"{address}: no Ray cluster answers there ({shown(str(error), 80)})") from None

    def close(self) -> None:
        """Leave the cluster; its workers stay."""
        self._library.shutdown()

    def run(self, work: Work, tasks: Sequence[Task], on_done: Callable[[], None]) -> None:
        """Run ``work`` on every task, in any order: Ray tries again where a worker was lost."""
        errors: Any = self._library.exceptions
        remote = self._library.remote(max_retries=TRIES - 1, retry_exceptions=[OSError])(work)
        running = [remote.remote(task) for task in tasks]
        while running:
            (first,), running = self._library.wait(running, num_returns=1)
            try:
                self._library.get(first)
            except errors.WorkerCrashedError:
                raise lost(self.name, TRIES) from None
            except errors.RayTaskError as error:
                raise getattr(error, "cause", None) or error from None
            on_done()
