"""Rows between the ranks that ask for them and the ranks that own them: all-to-all there, and back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Int
from torch import Tensor

_alone = ContextVar("_alone", default=False)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Build what is built inside for this process alone, however many ranks there are."""
    before = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(before)


class Place(NamedTuple):
    """Describe which process this is, of how many."""

    rank: int
    size: int

    @classmethod
    def current(cls) -> Place:
        """Return the ranks of this process; alone where torch.distributed is not set up."""
        if not _alone.get() and dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls(0, 1)


class Exchange:
    """Hold the exchange of every rank with every other: which of its rows go where, and how they come back.

    All ranks make one at the same time, and then use it alike: it is where they meet. Alone, nothing moves.

    Args:
        owners: the rank that each of this rank's rows goes to.
        size: how many ranks there are.

    Attributes:
        sent: rows that this rank sends to each rank.
        received: rows that this rank gets from each rank; `to_owners` gives them rank after rank.
    """

    def __init__(self, owners: Int[Tensor, " rows"], size: int) -> None:
        self.order: Tensor | None = None
        self.sent = self.received = [len(owners)]
        if size == 1:
            return
        self.order = owners.argsort(stable=True)
        sent = owners.bincount(minlength=size)
        received = torch.empty_like(sent)
        with lost_rank():
            dist.all_to_all_single(received, sent)
        self.sent, self.received = torch.stack([sent, received]).tolist()  # the one wait for the device

    def to_owners(self, rows: Tensor) -> Tensor:
        """Return the rows that all ranks sent to this one, rank after rank, in the order of each."""
        if self.order is None:
            return rows
        return _moved(rows.index_select(0, self.order), self.sent, self.received)

    def to_askers(self, rows: Tensor) -> Tensor:
        """Return the answers to what `to_owners` gave to the ranks that asked, in the order of their own rows."""
        if self.order is None:
            return rows
        answers = _moved(rows.contiguous(), self.received, self.sent)
        return torch.empty_like(answers).index_copy_(0, self.order, answers)


def side_by_side(part: Tensor) -> Tensor:
    """Return the tensor of each rank, which all have one shape, stacked by rank; alone, of this one."""
    place = Place.current()
    if place.size == 1:
        return part[None]
    held = [torch.empty_like(part) for _ in range(place.size)]
    with lost_rank():
        dist.all_gather(held, part.contiguous())
    return torch.stack(held)


class LostOwnerError(ConnectionError):
    """Report that a rank did not answer.

    Args:
        does: what the rank is for.
        reason: "is gone", or "did not answer in time".
    """

    def __init__(self, does: str, reason: str) -> None:
        super().__init__(f"a rank that {does} {reason}; all ranks end: start them again")
        self.does, self.reason = does, reason

    def __reduce__(self) -> tuple[type[LostOwnerError], tuple[str, str]]:
        """Pass to another process as it was made."""
        return type(self), (self.does, self.reason)


@contextlib.contextmanager
def lost_rank(does: str = "holds rows of a table") -> Iterator[None]:
    """Turn what a backend raises when a rank is gone, or late, into one line.

    Args:
        does: what the rank is for, in the error.

    Raises:
        LostOwnerError: says that a rank did not answer.
    """
    try:
        yield
    except RuntimeError as error:
        reason = "did not answer in time" if "imed out" in str(error) else "is gone"
        raise LostOwnerError(does, reason) from error


def _moved(rows: Tensor, sent: list[int], received: list[int]) -> Tensor:
    arrived = rows.new_empty(sum(received), *rows.shape[1:])
    with lost_rank():
        dist.all_to_all_single(arrived, rows, received, sent)
    return arrived
