"""Contract of engines: run a function on each task at least once, and try again where a worker was lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

Task = dict[str, Any]
"""Arguments of one part: plain values alone, so that any engine can send them."""
Work = Callable[[Task], None]
"""A function of a module, which writes what it makes to files; run twice on a task, it leaves the same files."""

TRIES = 4
"""How often a task is tried before its failure is that of the whole."""


@runtime_checkable
class Engine(Protocol):
    """Run tasks somewhere."""

    @property
    def name(self) -> str:
        """Return how messages call it."""
        ...

    def run(self, work: Work, tasks: Sequence[Task], on_done: Callable[[], None]) -> None:
        """Run ``work`` on every task, in any order; ``on_done`` is called here after each.

        Raises:
            InputError: of a task, at once: another try would not mend it.
            ConnectionError: if the engine is lost.
            OSError: if a task failed, or its worker was lost, `TRIES` times.
        """
        ...


def lost(name: str, tries: int) -> ChildProcessError:
    """Return the error for workers that end without a word."""
    return ChildProcessError(
        f"{name}: a worker ended without a word {tries} times on the same part, as when memory is short; the same "
        "command goes on with what is done"
    )
