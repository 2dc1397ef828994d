"""Hard negatives mined from an index: items that the model ranks high for a user and the user has not taken."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import FIRST_KNOWN, UNKNOWN, Batch, Negatives, TopK
from twotower.sampling.base import batch_users


class IndexMined:
    """Draw ``count`` of the items at ranks ``first`` to ``last`` for each row's user, from a repeated search.

    The list of a user (its window of ranks) is a stratum: `Sum` leaves these items to this source, which draws
    ``count`` of them without replacement, so log q = log(count / items in the list), exactly. Skipping the first
    ranks, or a `BelowPositive` margin in the step, leaves out items that are likely positives not seen yet.

    The first search comes after ``start`` steps, then one every ``refresh`` steps; before, there are no candidates.

    Source: ANCE (Xiong et al., ICLR 2021) for the repeated search; the window of ranks as in Qu et al., NAACL 2021.

    Args:
        search: user rows [n] and k to the k best items of each, known positives left out, best first, as `TopK`
            (padded with id −1); called once a refresh, with all users. The caller encodes users and items and holds
            the index, exact or approximate.
        num_users: rows of the user vocabulary.
        count: candidates a row.
        first: best rank of the window, counted from 0.
        last: worst rank of the window; it has last − first + 1 places.
        refresh: steps between searches.
        start: steps before the first search.
        generator: on the device of the batch.

    Raises:
        InputError: if the window is empty or smaller than ``count``, or a number is out of range.
    """

    def __init__(
        self,
        search: Callable[[Tensor, int], TopK],
        num_users: int,
        count: int,
        generator: torch.Generator,
        *,
        first: int = 0,
        last: int = 99,
        refresh: int = 1000,
        start: int = 0,
    ) -> None:
        if first < 0 or not 1 <= count <= last - first + 1:
            raise InputError(
                f"index-mined negatives: {count} asked of the ranks {first} to {last}; "
                "ask for at least 1 and at most the places of the window"
            )
        if refresh < 1 or start < 0 or num_users <= FIRST_KNOWN:
            raise InputError(
                f"index-mined negatives: refresh {refresh} must be at least 1, start {start} at least 0, "
                f"and there must be known users ({num_users} user rows)"
            )
        self.search = search
        self.num_users = num_users
        self.count = count
        self.generator = generator
        self.first = first
        self.last = last
        self.refresh = refresh
        self.start = start
        self.step = 0
        self.lists: Tensor | None = None
        """Items of each user's window: int64 [users, places], -1 where the search found fewer."""

    def sample(self, batch: Batch) -> Negatives:
        """Return fresh draws from each row's list; [rows, 0] before the first search."""
        if self.step >= self.start and (self.step - self.start) % self.refresh == 0:
            self._mine(batch.users.ids.device)
        self.step += 1
        window = self.covers(batch)
        if self.lists is None:
            return Negatives(window, torch.empty(window.shape, device=window.device))
        there = window >= 0
        keys = torch.rand(window.shape, generator=self.generator, device=window.device).masked_fill_(~there, -1.0)
        place = keys.topk(self.count, dim=1).indices
        ids, keep = window.gather(1, place), there.gather(1, place)
        found = there.sum(1, keepdim=True).clamp(min=1)
        log_q = (found.clamp(max=self.count) / found).log().expand(ids.shape)
        return Negatives(ids.masked_fill(~keep, UNKNOWN), log_q, keep=keep)

    def covers(self, batch: Batch) -> Tensor:
        """Return each row's list: int64 [rows, places], −1 where unused; [rows, 0] before the first search."""
        users = batch_users(batch)
        return users.new_empty(len(users), 0) if self.lists is None else self.lists[users]

    def _mine(self, device: torch.device) -> None:
        lists = torch.full((self.num_users, self.last - self.first + 1), -1, dtype=torch.int64, device=device)
        users = torch.arange(FIRST_KNOWN, self.num_users, device=device)
        with torch.no_grad():
            ids = self.search(users, self.last + 1).ids[:, self.first :]
        lists[FIRST_KNOWN:, : ids.shape[1]] = ids.to(device)
        if not (lists >= 0).any():
            raise InputError(
                f"index-mined negatives: no user has an item at ranks {self.first} to {self.last}; lower the ranks"
            )
        self.lists = lists

    def state_dict(self) -> dict[str, Tensor]:
        """Return steps done, the lists, and the generator's state."""
        kept = {"step": torch.tensor(self.step), "generator": self.generator.get_state()}
        return kept if self.lists is None else {**kept, "lists": self.lists}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore lists and generator, so that the next draws are those that would have come."""
        self.step = int(state["step"])
        self.generator.set_state(state["generator"])
        self.lists = state.get("lists")
