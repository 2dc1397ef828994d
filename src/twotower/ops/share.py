"""Work on rows shared out over processes: each does its part, and all get the whole."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from twotower.core.errors import InputError
from twotower.ops.exchange import lost_rank


class Share(NamedTuple):
    """Describe which part of shared work is this process's; alone, all of it.

    All ranks go through the same shared work in the same order: where parts are put together is where they meet.
    """

    rank: int = 0
    size: int = 1

    def has(self, tile: int) -> bool:
        """Return whether the tile of this number is this rank's; tiles are dealt in turn.

        Examples:
            >>> [Share(1, 3).has(tile) for tile in range(5)]
            [False, True, False, False, True]
        """
        return tile % self.size == self.rank

    def block(self, rows: int) -> slice:
        """Return this rank's part of so many rows, as equal as can be; none where there are fewer rows than ranks.

        Examples:
            >>> [Share(rank, 3).block(7) for rank in range(3)]
            [slice(0, 2, None), slice(2, 4, None), slice(4, 7, None)]
        """
        return slice(rows * self.rank // self.size, rows * (self.rank + 1) // self.size)

    def summed(self, part: Tensor) -> Tensor:
        """Return the sum of ``part`` over ranks: the whole, where each fills in its own rows of zeros, exactly.

        Args:
            part: on the CPU, of one shape on all ranks; changed in place.

        Raises:
            ConnectionError: if a rank is gone or does not answer in time.
        """
        if self.size > 1:
            with lost_rank("shares the work"):
                dist.all_reduce(part)
        return part

    def agree(self, digest: bytes, of: str) -> None:
        """Compare a digest of what the work rests on.

        Args:
            digest: as long on all ranks.
            of: what it is of, in the error.

        Raises:
            InputError: on every rank, and names the first rank that differs.
            ConnectionError: if a rank is gone or does not answer in time.
        """
        if self.size == 1:
            return
        mine = torch.tensor(list(digest), dtype=torch.uint8)
        told = [torch.empty_like(mine) for _ in range(self.size)]
        with lost_rank("shares the work"):
            dist.all_gather(told, mine)
        for rank, other in enumerate(told):
            if not torch.equal(other, told[0]):
                raise InputError(f"rank {rank} has other {of} than rank 0: start all ranks alike")


ALONE = Share()
