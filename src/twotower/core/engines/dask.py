"""Engine of a Dask cluster, by the address of its scheduler (extra ``dask``)."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from twotower.core.engines.base import TRIES, Task, Work, lost
from twotower.core.errors import InputError, shown

ANSWER = 10.0
"""Seconds that a scheduler has to answer, and to name a worker."""
PATIENCE = 60.0
"""Seconds without any worker after which the run is given up."""
AHEAD = 2
"""Tasks that each thread of the workers has in hand or in wait."""


class Dask:
    """Run tasks on the workers of a Dask scheduler.

    Args:
        address: ``dask://host:port``.

    Raises:
        InputError: if ``distributed`` is not installed.
        ConnectionError: if no scheduler answers there, or it has no worker.
    """

    def __init__(self, address: str) -> None:
        try:
            import distributed
        except ImportError:
            raise InputError("dask:// engines need dask.distributed: pip install 'twotower[dask]'") from None
        self.name = address
        self._library: Any = distributed
        try:
            self._client: Any = distributed.Client(
                address.replace("dask://", "tcp://", 1), timeout=ANSWER, set_as_default=False
            )
        except (OSError, TimeoutError, ValueError) as error:
            raise ConnectionAbortedError(
                f"{address}: no Dask scheduler answers there within {ANSWER:g} s ({shown(str(error), 80)}); "
                "'dask scheduler' starts one"
            ) from None
        if not self._threads(ANSWER):
            self.close()
            raise ConnectionAbortedError(f"{address}: the scheduler has no workers; 'dask worker HOST:PORT' starts one")

    def close(self) -> None:
        """Leave the cluster; its workers stay."""
        self._client.close(timeout=5)

    def run(self, work: Work, tasks: Sequence[Task], on_done: Callable[[], None]) -> None:
        """Run ``work`` on every task, in any order: Dask tries again where a worker was lost."""
        token, ahead = secrets.token_hex(4), iter(range(len(tasks)))
        tries = [0] * len(tasks)
        running: dict[Any, int] = {}

        def begin(number: int) -> None:
            tries[number] += 1
            key = f"twotower-{token}-{number}-{tries[number]}"
            running[self._client.submit(work, tasks[number], key=key, pure=False)] = number

        try:
            while True:
                room = AHEAD * max(1, self._threads(0.0)) - len(running)
                for number in itertools.islice(ahead, max(0, room)):
                    begin(number)
                if not running:
                    return
                for future in self._next(set(running)):
                    number = running.pop(future)
                    fault = self._fault(future)
                    if fault is None:
                        on_done()
                    elif tries[number] < TRIES:
                        begin(number)
                    else:
                        raise fault
        finally:
            self._client.cancel(list(running), force=True)

    def _next(self, running: set[Any]) -> set[Any]:
        """Wait for the first of them, as long as there are workers."""
        while True:
            try:
                with self._client.as_current():
                    found: Any = self._library.wait(running, timeout=PATIENCE, return_when="FIRST_COMPLETED")
                return set(found.done)
            except TimeoutError:
                if not self._threads(0.0):
                    raise self._gone("has no workers any more") from None
            except (OSError, asyncio.CancelledError, self._library.client.CancelledError):
                raise self._gone("was lost") from None

    def _fault(self, future: Any) -> OSError | None:
        """What the system raised in a task, which another try may mend; anything else is raised here, in one line."""
        try:
            future.result()
        except OSError as error:
            return error
        except self._library.KilledWorker:
            raise lost(self.name, TRIES) from None
        except (asyncio.CancelledError, self._library.client.CancelledError):
            raise self._gone("was lost") from None
        except ImportError as error:
            raise InputError(
                f"{self.name}: its workers cannot import what they are to run ({shown(str(error), 120)}): install the "
                "same twotower there"
            ) from None
        return None

    def _threads(self, within: float) -> int:
        """Threads of the workers that are there within some seconds."""
        try:
            if within:
                self._client.wait_for_workers(1, timeout=within)
            return sum(self._client.nthreads().values())
        except TimeoutError:
            return 0
        except OSError:
            raise self._gone("was lost") from None

    def _gone(self, what: str) -> ConnectionAbortedError:
        return ConnectionAbortedError(f"{self.name}: the scheduler {what}; the same command goes on with what is done")
