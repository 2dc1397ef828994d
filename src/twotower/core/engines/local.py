"""Engine of this machine: this process itself, or several fresh ones."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context
from multiprocessing.process import BaseProcess

from twotower.core.cores import cores, share_cores
from twotower.core.engines.base import TRIES, Task, Work, lost
from twotower.core.errors import InputError
from twotower.core.own_modules import import_own, own_modules


class ThisProcess:
    """Run tasks one after the other, here."""

    name = "local"

    def run(self, work: Work, tasks: Sequence[Task], on_done: Callable[[], None]) -> None:
        """Run ``work`` on every task, in order."""
        for task in tasks:
            work(task)
            on_done()


class Processes:
    """Run tasks in fresh processes of this machine; the task of a lost process is started again.

    Args:
        workers: how many processes.
        stay: they stay for the next tasks, until `close`.
    """

    name = "local"

    def __init__(self, workers: int, *, stay: bool = False) -> None:
        self.workers, self.stay = workers, stay
        self._pool: ProcessPoolExecutor | None = None
        self._others: set[BaseProcess] = set()

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def run(self, work: Work, tasks: Sequence[Task], on_done: Callable[[], None]) -> None:
        """Run ``work`` on every task, in any order."""
        left, tries = list(range(len(tasks))), [0] * len(tasks)
        try:
            while left:
                done, suspects = self._once(work, tasks, left, tries, on_done)
                left = [number for number in left if number not in done]
                for number in suspects:
                    tries[number] += 1
                    if tries[number] >= TRIES:
                        raise lost("local processes", TRIES)
        except BaseException:
            self.close()
            raise
        if not self.stay:
            self.close()

    def _once(
        self, work: Work, tasks: Sequence[Task], left: list[int], tries: list[int], on_done: Callable[[], None]
    ) -> tuple[set[int], set[int]]:
        """Run until all is done or a process is lost: what was done, and what was under way when one was."""
        done: set[int] = set()
        ahead = iter(left)
        if self._pool is None:
            self._others = set(active_children())
            self._pool = ProcessPoolExecutor(
                self.workers,
                mp_context=get_context("spawn"),
                initializer=_begin,
                initargs=(self.workers, own_modules()),
            )
        pool = self._pool
        running: dict[Future[None], int] = {}
        try:
            while True:
                while len(running) < self.workers and (number := next(ahead, None)) is not None:
                    running[pool.submit(work, tasks[number])] = number
                if not running:
                    return done, set()
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    try:
                        future.result()
                    except (InputError, BrokenProcessPool):
                        raise
                    except OSError:
                        number = running.pop(future)
                        tries[number] += 1
                        if tries[number] >= TRIES:
                            raise
                        running[pool.submit(work, tasks[number])] = number
                        continue
                    done.add(running.pop(future))
                    on_done()
        except BrokenProcessPool:
            self.close()
            return done, set(running.values())
        except KeyboardInterrupt:
            for process in set(active_children()) - self._others:
                process.terminate()
            raise


def _begin(workers: int, modules: Sequence[str]) -> None:
    """Leave Ctrl-C to the process that started this one, share the cores, and know the parts that it knows."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in modules:
        import_own(name)
    share_cores(workers)
    torch.set_num_threads(min(torch.get_num_threads(), cores()))
