"""Rendezvous of the processes that torchrun started, through a store; one of them reports why all must end."""

from __future__ import annotations

import contextlib
import datetime
import os
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from twotower.core.errors import InputError, SharedError
from twotower.training import collectives

WAIT = 600.0
"""Seconds that a rank waits for the others, where the caller does not say."""
TELLING = 5.0
"""Seconds in which a rank that must end finds out whether another has told why."""


class Meeting(NamedTuple):
    """Hold which process this is of how many, and the store that they share."""

    rank: int
    size: int
    local_rank: int
    """Of the processes on this machine."""
    store: Any = None
    """None where a process is alone, or others have set up torch.distributed."""


def meet(wait: float) -> Meeting:
    """Join the other processes: by torch.distributed if set up, else by the variables that torchrun sets.

    Args:
        wait: seconds before all give up.

    Raises:
        InputError: if variables are damaged or missing, or ``wait`` is out of range.
        ConnectionError: if the others do not come.
    """
    if dist.is_available() and dist.is_initialized():
        return Meeting(dist.get_rank(), dist.get_world_size(), _variable("LOCAL_RANK", dist.get_rank()))
    size, rank = _variable("WORLD_SIZE", 1), _variable("RANK", 0)
    if size <= 1:
        return Meeting(0, 1, 0)
    if not 0 <= rank < size:
        raise InputError(f"RANK is {rank} of WORLD_SIZE {size}; start the ranks with torchrun")
    if not 0.0 < wait < 1e6:
        raise found_by_all(rank, f"ranks must wait for more than 0 seconds and fewer than a million, got {wait:g}")
    if missing := [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise found_by_all(rank, f"{missing[0]} is not set, and WORLD_SIZE is {size}; start the ranks with torchrun")
    backend = "gloo"
    if torch.cuda.is_available() and dist.is_nccl_available():
        backend = "cpu:gloo,cuda:nccl"
        os.environ.setdefault("NCCL_NVLS_ENABLE", "0")  # multicast is not granted everywhere, and fails late
    from torch.distributed.rendezvous import rendezvous

    limit = datetime.timedelta(seconds=wait)
    with collectives.watched():
        store, _, _ = next(rendezvous("env://", rank, size, timeout=limit))
        store.set_timeout(limit)
    told = dist.PrefixStore("twotower", store)  # type: ignore[attr-defined]
    local_rank = _variable("LOCAL_RANK", rank)
    try:
        with collectives.watched():
            collectives.in_time(
                lambda: dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=limit),
                wait + TELLING,
            )
    except ConnectionError as error:
        if tells_first(told):
            raise
        raise SharedError(str(error), status=1) from error
    _wait_for_all(told, size)
    return Meeting(rank, size, local_rank, told)


def tells_first(store: Any) -> bool:
    """Return whether this rank is the first that asks: when all must end, one reports the reason."""
    try:
        store.set_timeout(datetime.timedelta(seconds=TELLING))
        return bool(store.add("told", 1) == 1)
    except RuntimeError:  # it went with the process that held it
        return True


def found_by_all(rank: int, text: str) -> InputError:
    """Return the error that every rank finds by itself: rank 0 reports it."""
    return InputError(text) if rank == 0 else SharedError(text)


def _wait_for_all(store: Any, size: int) -> None:
    """Wait a little until all have met: one that ends at once would break the meeting of those that still do."""
    with contextlib.suppress(RuntimeError):  # one is late, or gone: that is found out where it is asked
        if store.add("met", 1) == size:
            store.set("all met", "1")
        store.wait(["all met"], datetime.timedelta(seconds=TELLING))


def _variable(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{name} is '{text}', and must be a number; start the ranks with torchrun") from None
