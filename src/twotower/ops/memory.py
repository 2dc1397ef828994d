"""Memory that a process may still take, and the check before work starts."""

from __future__ import annotations

import logging
from pathlib import Path

from twotower.core.errors import InputError

log = logging.getLogger(__name__)

_MEMINFO = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")


def available_memory(meminfo: Path = _MEMINFO, group: Path = _GROUP) -> float:
    """Return the bytes that can be taken without swapping: free in the system, or left to the process's group.

    Infinite where neither is told (outside Linux): then nothing is refused for want of memory.

    Args:
        meminfo: the system's own account.
        group: the folder of the control group (version 2).
    """
    free = [_of_system(meminfo), _of_group(group)]
    return min((value for value in free if value is not None), default=float("inf"))


def need_memory(needed: float, what: str, advice: str) -> None:
    """Refuse work that takes more memory than is free.

    Args:
        needed: bytes.
        what: begins the sentence, such as "model 'ease': 20,000 items need".
        advice: what to do otherwise.

    Raises:
        InputError: with what is needed and what is there.
    """
    free = available_memory()
    if needed > free:
        raise InputError(f"{what} {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB of memory are free; {advice}")
    if needed > 1e9:
        log.info("%s %.1f GB", what, needed / 1e9)


def _of_system(path: Path) -> float | None:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    for line in lines:
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return float(rest.split()[0]) * 1024
    return None


def _of_group(folder: Path) -> float | None:
    try:
        limit = (folder / "memory.max").read_text(encoding="ascii").strip()
        used = int((folder / "memory.current").read_text(encoding="ascii"))
        inactive = 0
        for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(" ")
            if name == "inactive_file":  # cached files, given up when memory is wanted
                inactive = int(value)
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(0.0, float(limit) - used + inactive)
