"""Draws of negatives from each user's own list: what a first stage would hand over, and the user has not met."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from twotower.data.unseen import Unseen


class Listed:
    """Draw uniformly from a user's list; where that is empty, and for the other share of draws, from ``others``.

    Args:
        lists: int64 [num_users, places], items that the user has not met, -1 at the end where there are fewer.
        others: draws for whom the list is not asked.
        share: of the draws, in [0, 1], that the lists are asked for.
    """

    def __init__(self, lists: Int[Tensor, "users places"], others: Unseen, *, share: float = 1.0) -> None:
        self.lists, self.others, self.share = lists, others, share
        self.lengths = (lists >= 0).sum(dim=1)

    def draw(self, users: Int[Tensor, " rows"], generator: torch.Generator | None = None) -> Int[Tensor, " rows"]:
        """Draw one item for each row's user.

        Examples:
            >>> others = Unseen(torch.tensor([0, 1, 1]), torch.tensor([2]), torch.tensor([2, 3]), 9)
            >>> Listed(torch.tensor([[7, -1], [-1, -1]]), others).draw(torch.tensor([0, 0])).tolist()
            [7, 7]
        """
        rest = self.others.draw(users, generator)
        chance = torch.rand(2, len(users), generator=generator, device=users.device, dtype=torch.float64)
        lengths = self.lengths[users]
        place = (chance[0] * lengths).long().clamp(max=self.lists.shape[1] - 1)
        listed = self.lists[users, place]
        return torch.where((lengths > 0) & (chance[1] < self.share), listed, rest)

    def check(self, users: Int[Tensor, " rows"]) -> None:
        """Check that each of these users has an item left.

        Raises:
            InputError: if one has not.
        """
        self.others.check(users)
