"""Processes that evaluate together: which of them this one is, and how they put their parts together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Processes(Protocol):
    """Name the part of the users that is this process's; `twotower.training.distributed.World` is one."""

    @property
    def rank(self) -> int:
        """Return the number of this process, from 0."""
        ...

    @property
    def size(self) -> int:
        """Return how many processes there are."""
        ...

    def together(self) -> AbstractContextManager[None]:
        """Return a block that ends all processes with the error of one; none waits for another inside."""
        ...

    def summed(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over the processes, in place."""
        ...


class Alone:
    """Evaluate all users in this process: `Processes` of one."""

    rank = 0
    size = 1

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Leave errors as they are."""
        yield

    def summed(self, tensor: Tensor) -> Tensor:
        """Return the tensor as it is."""
        return tensor
