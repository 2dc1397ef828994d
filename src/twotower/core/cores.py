"""Number of cores that this process may use: those it is bound to, shared with the processes beside it."""

from __future__ import annotations

import os

_share = 1


def share_cores(processes: int) -> None:
    """Set the number of processes that share the cores with this one, itself included."""
    global _share
    _share = processes


def cores() -> int:
    """Return how many threads keep this process busy without taking another one's cores; at least 1."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, bound // _share)
