"""Collectives: rows side by side with their gradients, sums, texts; a lost rank is one clear error."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

AGAIN = "all ranks end; the same command with --resume goes on from the last checkpoint"


class LostRankError(ConnectionError):
    """Report that a rank did not answer.

    Args:
        reason: "is gone", or "did not answer in time".
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def line(self, work: str = "training", again: str = AGAIN) -> str:
        """Return what happened to ``work``, and how to go on."""
        return f"a rank of the {work} {self.reason}; {again}"

    def __str__(self) -> str:
        return self.line()


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Turn what a backend raises when a rank is gone, or late, into one line.

    Raises:
        LostRankError: says that a rank did not answer, and how to go on.
    """
    try:
        yield
    except RuntimeError as error:
        late = any(words in str(error) for words in ("imed out", "wait timeout"))
        raise LostRankError("did not answer in time" if late else "is gone") from error


def in_time(work: Callable[[], object], seconds: float) -> None:
    """Do work that may wait for a lost rank beyond any limit, as gloo does while ranks connect.

    Raises:
        LostRankError: if it is not done in time; the thread that does it is left behind.
    """
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise LostRankError("did not answer in time")
    if failures:
        raise failures[0]


def summed(tensor: Tensor) -> Tensor:
    """Sum ``tensor`` over ranks, in place."""
    with watched():
        dist.all_reduce(tensor)
    return tensor


def told(*numbers: int) -> Callable[[], list[list[int]]]:
    """Start to gather some numbers of all ranks through the host; return what waits for those of each rank, by rank."""
    mine = torch.tensor(numbers)
    held = [torch.zeros_like(mine) for _ in range(dist.get_world_size())]
    with watched():
        work = dist.all_gather(held, mine, async_op=True)

    def heard() -> list[list[int]]:
        with watched():
            work.wait()
        return [one.tolist() for one in held]

    return heard


def counts(number: int) -> list[int]:
    """Return the number that each rank gives, by rank."""
    return [one for (one,) in told(number)()]


def rows_of_all(part: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return the first ``sizes[rank]`` rows of each rank's ``part``, rank after rank; no gradient."""
    mine = sizes[dist.get_rank()]
    if len(part) == mine == max(sizes):
        padded = part.contiguous()
    else:
        padded = part.new_zeros(max(sizes), *part.shape[1:])
        padded[:mine] = part[:mine]
    held = [torch.empty_like(padded) for _ in sizes]
    with watched():
        dist.all_gather(held, padded)
    return torch.cat([rows[:size] for rows, size in zip(held, sizes, strict=True)])


def with_gradients(parts: Sequence[Tensor], sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """Return `rows_of_all` of several tensors; a rank's rows get the gradient that all ranks together have for them.

    They pass back through one node, so that ranks meet in the same order whatever else their graphs hold.
    """
    gathered: tuple[Tensor, ...] = _Gather.apply(tuple(sizes), *parts)
    return gathered


def texts(text: str) -> list[str]:
    """Return the text of each rank, by rank."""
    mine = torch.frombuffer(bytearray(text.encode() + b"\n"), dtype=torch.uint8)
    sizes = counts(len(mine))
    return [bytes(part.tolist()).decode()[:-1] for part in rows_of_all(mine, sizes).split(sizes)]


def of_first(tensor: Tensor) -> Tensor:
    """Set ``tensor`` to that of rank 0, in place; all ranks give one of the same shape."""
    with watched():
        dist.broadcast(tensor, 0)
    return tensor


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, sizes: tuple[int, ...], *parts: Tensor) -> tuple[Tensor, ...]:
        context.sizes = sizes
        context.mine = [len(part) for part in parts]
        return tuple(rows_of_all(part, sizes) for part in parts)

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rank = dist.get_rank()
        start, size = sum(context.sizes[:rank]), context.sizes[rank]
        given: list[Tensor | None] = []
        for gradient, rows, needed in zip(gradients, context.mine, context.needs_input_grad[1:], strict=True):
            if not needed:  # the same on every rank
                given.append(None)
                continue
            # Sums in float32 or wider, whatever the precision of products.
            whole = summed(gradient.to(torch.promote_types(gradient.dtype, torch.float32), copy=True).contiguous())
            own = whole.new_zeros(rows, *whole.shape[1:])
            own[:size] = whole[start : start + size]
            given.append(own.to(gradient.dtype))
        return None, *given
