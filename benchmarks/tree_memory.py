"""Memory of a process with all that it started, sampled while it runs: shared pages are counted once (PSS)."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

EVERY = 0.2
"""Seconds between two samples."""


class TreeMemory:
    """Sample the memory of a process and its descendants until the block ends; Linux only, elsewhere all stays 0."""

    together_mib = 0.0
    """At most, of all processes together (PSS)."""
    samples = 0

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._root = process.pid
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> TreeMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(EVERY):
            self.together_mib = max(self.together_mib, sum(map(pss_mib, descendants(self._root))))
            self.samples += 1


def descendants(root: int) -> list[int]:
    """The process and all below it."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        parents.setdefault(int(words[1]), []).append(int(stat.parent.name))
    found, ahead = [], [root]
    while ahead:
        found.append(ahead.pop())
        ahead += parents.get(found[-1], [])
    return found


def pss_mib(process: int) -> float:
    """Its share of the memory that it maps; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 2**10
