"""Uniform draws among the items that a user has not seen: one look-up a draw, however much was seen."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from twotower.core.errors import InputError


class Unseen:
    """Draw items of ``pool`` that a user has not seen, each equally likely.

    The r-th unmet place is r plus the number of met places before it. A user's met places p_0 < p_1 < … are kept as
    p_j − j, the number of unmet places below each, so that one binary search counts them: nothing is drawn twice, and
    on a GPU nothing waits for the device.

    Args:
        offsets: int64 [num_users + 1], as in a log: user u met items[offsets[u]:offsets[u + 1]].
        items: int64 [events], in any order, duplicates allowed.
        pool: int64 [places], the items that may be drawn, distinct.
        num_items: rows of the item vocabulary, padding and unknown included.
    """

    def __init__(
        self,
        offsets: Int[Tensor, " boundaries"],
        items: Int[Tensor, " events"],
        pool: Int[Tensor, " places"],
        num_items: int,
    ) -> None:
        device, users = items.device, len(offsets) - 1
        place = torch.full((num_items,), -1, device=device)
        place[pool] = torch.arange(len(pool), device=device)
        owners = torch.arange(users, device=device).repeat_interleave(offsets.diff(), output_size=len(items))
        met = place[items] >= 0
        self.pool, self.stride = pool, len(pool) + 1
        pairs = (owners[met] * self.stride + place[items[met]]).unique()
        self.starts = torch.searchsorted(pairs, torch.arange(users + 1, device=device) * self.stride)
        self.below = pairs - torch.arange(len(pairs), device=device) + self.starts[pairs // self.stride]
        self.free = len(pool) - self.starts.diff()

    def draw(self, users: Int[Tensor, " rows"], generator: torch.Generator | None = None) -> Int[Tensor, " rows"]:
        """Draw one item for each row's user; `check` first that every user has one left.

        Examples:
            >>> unseen = Unseen(torch.tensor([0, 2]), torch.tensor([2, 4]), torch.tensor([2, 3, 4]), 5)
            >>> unseen.draw(torch.tensor([0, 0]))
            tensor([3, 3])
        """
        random = torch.randint(1 << 62, (len(users),), generator=generator, device=users.device)
        rank = random % self.free[users]
        before = torch.searchsorted(self.below, users * self.stride + rank, right=True) - self.starts[users]
        return self.pool[rank + before]

    def check(self, users: Int[Tensor, " rows"]) -> None:
        """Check that each of these users has an item left.

        Raises:
            InputError: if one has not.
        """
        if len(users) and not bool((self.free[users] > 0).all()):
            raise InputError("a user has met every item, so no negative can be drawn for it")
