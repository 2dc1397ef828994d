"""Look-up of known positives of a row's user: in sorted pairs, not a users × items table."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from twotower.core.errors import InputError
from twotower.ops.ragged import expand

MOST_PADDED = 1 << 25
"""Places of a padded walk on a GPU at most: a quarter of a GiB."""
WAITING = ("cuda",)
"""Kinds of device for which the host must not wait, and on which a kernel costs its launch."""
MOST_SEARCHED = 1 << 19
"""Rows times shared candidates up to which they are searched for there."""


class Positives:
    """Look up the known positives of every user.

    Not all that a user has seen: an item rated badly may be a negative.

    Each (user, item) pair is one int64, user · num_items + item, in sorted order, and the item once more: memory is 16
    bytes an event. Shared candidates are met by walking the rows' own positives (their work grows with those, not with
    rows × candidates); candidates of a row's own are met by binary search, and on a GPU so are shared ones where they
    are few, which takes a third of the kernels. On a GPU nothing waits for the device as long as the walk, padded to
    the longest list, is no more than `MOST_PADDED` places.

    Args:
        offsets: int64 [num_users + 1], as in a log: user u owns items[offsets[u]:offsets[u + 1]].
        items: int64 [events], in any order, duplicates allowed.
        num_items: rows of the item vocabulary, padding and unknown included.

    Raises:
        InputError: if an item lies outside the vocabulary or the offsets do not fit the items.
    """

    def __init__(self, offsets: Int[Tensor, " boundaries"], items: Int[Tensor, " events"], num_items: int) -> None:
        if len(offsets) < 1 or int(offsets[0]) != 0 or int(offsets[-1]) != len(items):
            raise InputError(f"positives: offsets must run from 0 to the {len(items)} events")
        if len(items) and (int(items.min()) < 0 or int(items.max()) >= num_items):
            raise InputError(
                f"positives: item ids must lie in 0 to {num_items - 1}, got {int(items.min())} to {int(items.max())}"
            )
        users = torch.arange(len(offsets) - 1, device=offsets.device)
        owners = users.repeat_interleave(offsets.diff(), output_size=len(items))
        self.num_items = num_items
        self._keep((owners * num_items + items).unique(sorted=True))
        self.items = self.pairs % num_items
        self.offsets = torch.searchsorted(self.pairs, torch.arange(len(offsets), device=offsets.device) * num_items)
        self.longest = int(self.offsets.diff().max()) if len(offsets) > 1 else 0

    def to(self, device: torch.device | str) -> Positives:
        """Return the same look-up on another device."""
        moved = object.__new__(Positives)
        moved.num_items, moved.longest = self.num_items, self.longest
        moved._keep(self.pairs.to(device))
        moved.items, moved.offsets = self.items.to(device), self.offsets.to(device)
        return moved

    def _keep(self, pairs: Tensor) -> None:
        self._ended = torch.cat([pairs, pairs.new_full((1,), -1)])  # no pair is -1: a search may end past the last
        self.pairs = self._ended[:-1]

    def contains(
        self,
        users: Int[Tensor, " rows"],
        candidates: Int[Tensor, "*shared n"],
        own: Int[Tensor, " rows"] | None = None,
    ) -> Bool[Tensor, "rows n"]:
        """Return True where the candidate is a known positive of the row's user, or the row's ``own`` item.

        ``candidates`` is [n], shared by all rows, or [rows, n].

        Examples:
            >>> positives = Positives(torch.tensor([0, 0, 0, 2, 3]), torch.tensor([5, 3, 4]), 6)
            >>> positives.contains(torch.tensor([2, 3]), torch.tensor([3, 4]))
            tensor([[ True, False],
                    [False,  True]])
        """
        few = users.device.type in WAITING and len(users) * len(candidates) <= MOST_SEARCHED
        if candidates.ndim == 1 and not few:
            return self._walk(users, candidates, own)
        found = self._search(users[:, None] * self.num_items + candidates)
        return found if own is None else found.logical_or_(candidates == own[:, None])

    def _search(self, keys: Tensor) -> Tensor:
        return self._ended[torch.searchsorted(self.pairs, keys)] == keys

    def _walk(self, users: Tensor, candidates: Tensor, own: Tensor | None) -> Tensor:
        # The slot of an item is the place of one of its candidates; of all others, the place past the last.
        device, none = users.device, len(candidates)
        slots = torch.full((self.num_items,), none, device=device)
        slots[candidates] = torch.arange(none, device=device)
        starts, ends = self.offsets[users], self.offsets[users + 1]
        rows = torch.arange(len(users), device=device)
        if device.type not in WAITING or len(users) * self.longest > MOST_PADDED:
            row, place = expand(starts, ends)
            slot = slots[self.items[place]]
        else:
            place = starts[:, None] + torch.arange(self.longest, device=device)
            held = self.items[place.clamp(max=max(len(self.items) - 1, 0))] if len(self.items) else place
            slot = torch.where(place < ends[:, None], slots[held], none).flatten()
            row = rows[:, None].expand_as(place).flatten()
        if own is not None:
            row, slot = torch.cat([row, rows]), torch.cat([slot, slots[own]])
        return _marked(row, slot, len(users), slots[candidates], none)


def listed(lists: Int[Tensor, "rows items"], candidates: Int[Tensor, "*shared n"]) -> Bool[Tensor, "rows n"]:
    """Return True where the candidate is in the row's list.

    ``candidates`` is [n], shared by all rows, or [rows, n].

    Examples:
        >>> listed(torch.tensor([[4, -1], [3, 5]]), torch.tensor([3, 4, 3]))
        tensor([[False,  True, False],
                [ True, False,  True]])
    """
    if candidates.ndim == 2:
        return (candidates[:, :, None] == lists[:, None, :]).any(2)
    if not len(candidates):
        return torch.zeros(len(lists), 0, dtype=torch.bool, device=lists.device)
    row = torch.arange(len(lists), device=lists.device).repeat_interleave(lists.shape[1])
    distinct, slot = candidates.unique(return_inverse=True)
    place = torch.searchsorted(distinct, lists.flatten())
    matches = distinct.index_select(0, place.clamp(max=len(distinct) - 1)) == lists.flatten()
    return _marked(row, place.masked_fill(~matches, len(distinct)), len(lists), slot, len(distinct))


def _marked(row: Tensor, place: Tensor, num_rows: int, slot: Tensor, num_distinct: int) -> Tensor:
    """True at (row, n) for each pair of ``row`` and ``place`` where candidate n has that place (its ``slot``).

    Places from ``num_distinct`` on are no candidates. Marked item by item, so that repeats are copied in whole rows.
    """
    found = torch.zeros(num_distinct + 1, num_rows, dtype=torch.bool, device=row.device)
    # A True of Python would be copied to a GPU, for which the host waits; this one is made there.
    found.index_put_((place, row), found.new_ones(()))
    return found.index_select(0, slot).T.contiguous()
