"""Processes of one training, forked by a test: a group that has met already, or ranks as torchrun starts them."""

from __future__ import annotations

import contextlib
import datetime
import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch._dynamo  # optimisers import it: read once for all ranks
import torch.distributed as dist

from twotower.training.distributed import World

FORK = multiprocessing.get_context("fork")


def forked(processes: Sequence[Any]) -> None:
    """Start processes by forking this one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads, which then do nothing here
        for process in processes:
            process.start()


def on_ranks(size: int, folder: Path, work: Callable[[World], Any]) -> list[Any]:
    """What ``work`` gives, or raises, on each of so many processes that have met; one is this one.

    A process that is killed gives None.
    """
    if size == 1:
        try:
            return [work(World())]
        except Exception as error:
            return [error]
    ends = [FORK.Pipe(duplex=False) for _ in range(size)]
    store = str(folder / f"store{size}.{len(list(folder.glob('store*')))}")

    def rank(number: int) -> None:
        torch.set_num_threads(1)
        _keep_one(ends, number)
        file = dist.FileStore(store, size)
        dist.init_process_group("gloo", store=file, rank=number, world_size=size)
        if file.add("met", 1) == size:
            file.set("all met", "1")
        file.wait(["all met"], datetime.timedelta(seconds=60))  # a rank whose work ends it must not end the meeting
        try:
            ends[number][1].send(work(World.current()))
        except Exception as error:
            ends[number][1].send(error)
        finally:
            dist.destroy_process_group()

    started = [FORK.Process(target=rank, args=(number,)) for number in range(size)]
    forked(started)
    for _, theirs in ends:
        theirs.close()
    try:
        return [_given(ours, 100.0) for ours, _ in ends]
    finally:
        for process in started:
            process.join(20)
            process.kill()


def _keep_one(ends: list[Any], rank: int) -> None:
    """Close the ends of the others, so that what one of them does not send is known once it has ended."""
    for place, (_, theirs) in enumerate(ends):
        if place != rank:
            theirs.close()


def _given(pipe: Any, seconds: float) -> Any:
    try:
        return pipe.recv() if pipe.poll(seconds) else TimeoutError("ranks wait for each other")
    except EOFError:
        return None


class Ended(NamedTuple):
    """How a rank ended, what it printed, and what its work gave or raised."""

    status: int
    stdout: str
    stderr: str
    value: Any = None


class Ranks:
    """Ranks as torchrun starts them, each with work of its own, by a store that outlives them.

    Args:
        folder: for what they print.
        works: of each rank.
        size: how many ranks they are told to be; None: as many as there are.
    """

    def __init__(self, folder: Path, *works: Callable[[], Any], size: int | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.ends = [FORK.Pipe(duplex=False) for _ in works]
        self.ranks = [
            FORK.Process(target=self._rank, args=(rank, size or len(works), work)) for rank, work in enumerate(works)
        ]
        forked(self.ranks)
        for _, theirs in self.ends:
            theirs.close()

    def _rank(self, rank: int, size: int, work: Callable[[], Any]) -> None:
        torch.set_num_threads(1)
        _keep_one(self.ends, rank)
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(self.folder / f"{name}{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(self.store.port)}
        os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
        status, value = 0, None
        try:
            value = work()
        except SystemExit as ended:
            status = int(ended.code or 0)
        except Exception as error:
            status, value = 1, error
        except BaseException:
            status = 1
        with contextlib.suppress(OSError):  # the test has ended
            self.ends[rank][1].send(value)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    def send(self, number: int, *ranks: int) -> None:
        """Send a signal to all ranks, or to some."""
        for rank in ranks or range(len(self.ranks)):
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(self.ranks[rank].pid or 0, number)

    def ended(self, seconds: float = 60.0, *ranks: int) -> list[Ended]:
        """Wait for all, or some; none may take longer."""
        until, values = time.monotonic() + seconds, {}
        for rank in ranks or range(len(self.ranks)):
            left = max(0.0, until - time.monotonic())
            values[rank] = _given(self.ends[rank][0], left)  # first: what is large waits to be read
            self.ranks[rank].join(max(0.0, until - time.monotonic()))
        return [
            Ended(
                99 if one.exitcode is None else one.exitcode,
                (self.folder / f"out{rank}").read_text(),
                (self.folder / f"err{rank}").read_text(),
                values.get(rank),
            )
            for rank, one in enumerate(self.ranks)
        ]

    def close(self) -> None:
        """End those that still run."""
        for one in self.ranks:
            one.kill()
            one.join()


@contextlib.contextmanager
def ranks(folder: Path, *works: Callable[[], Any], size: int | None = None) -> Iterator[Ranks]:
    """Start `Ranks`, and end them with the block."""
    started = Ranks(folder, *works, size=size)
    try:
        yield started
    finally:
        started.close()


def as_torchrun_does(size: int, folder: Path, work: Callable[[int], Any], seconds: float = 60.0) -> list[Ended]:
    """How each of so many ranks ended that do ``work``, which is told its rank."""
    with ranks(folder, *[lambda rank=rank: work(rank) for rank in range(size)]) as started:
        return started.ended(seconds)
