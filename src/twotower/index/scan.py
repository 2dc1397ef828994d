"""Search by scoring every item: the common part of the exact indexes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.files import replacing_file
from twotower.core.records import State, TopK
from twotower.core.states import detach, from_tensors, join, map_state, rows, take, to_tensors
from twotower.index.checks import allowed_among, check_question, check_there, nothing, sorted_ids
from twotower.ops.tiles import masked_tiles
from twotower.ops.topk import top_k_of_tiles

Score: TypeAlias = Callable[[State, State], Tensor]
"""Every user with every item: (user states, item states) -> a new tensor [users, items]."""
ReadStates: TypeAlias = Callable[[dict[str, Tensor]], State]
"""Item states from the tensors of a file."""

FILE = "items.safetensors"
USER_TILE, ITEM_TILE = 1024, 16_384
PICKED = 0.2
"""Share of the items up to which those that may come back are picked out; with more, scoring all of them is quicker."""


def inner_product(users: Float[Tensor, "users dim"], items: Float[Tensor, "items dim"]) -> Float[Tensor, "users items"]:
    """Return ⟨user, item⟩ of every pair."""
    return users @ items.T


class Scan:
    """Score items tile by tile in ascending order of id; equal scores: the lower id first.

    Answers do not depend on the order in which items came. Memory for a search is one tile of 1,024 users × 16,384
    items, whatever the number of either.

    Args:
        score: every user with every item.
        read: item states from the tensors of a file, as `twotower.core.states.to_tensors` named them.
    """

    def __init__(self, score: Score, read: ReadStates = from_tensors) -> None:
        self._score = score
        self._read = read
        self._states: State | None = None
        self._ids = torch.zeros(0, dtype=torch.int64)

    def __len__(self) -> int:
        """Return how many items there are."""
        return len(self._ids)

    @property
    def is_exact(self) -> bool:
        """Return True: nothing is left out."""
        return True

    @property
    def settings(self) -> dict[str, Any]:
        """Return no settings: there is nothing to choose."""
        return {}

    @property
    def ids(self) -> Int[Tensor, " items"]:
        """Return the ids of its items, ascending."""
        return self._ids

    def build(self, item_states: State, ids: Int[Tensor, " items"]) -> None:
        """Index ``item_states`` under ``ids``, in place of what was there.

        Raises:
            InputError: if their numbers differ, an id comes twice or is below 0.
        """
        ids, order = sorted_ids(item_states, ids)
        self._ids, self._states = ids, take(detach(item_states), order)

    def search(
        self,
        user_states: State,
        k: int,
        exclude: Int[Tensor, "users excluded"] | None = None,
        allow: Tensor | None = None,
    ) -> TopK:
        """Find the best ``k`` items a user; ``exclude`` and ``allow`` are those of `Index.search`.

        Raises:
            InputError: if ``k`` is below 1, ``exclude`` is not one row a user, or ``allow`` neither mask nor ids.
        """
        users = rows(user_states)
        check_question(users, k, exclude)
        ids, states, masked = self._ids, self._states, None
        if allow is not None:
            stays = allowed_among(ids, allow)
            if int(stays.sum()) > PICKED * len(ids):
                masked = stays
            else:
                ids, states = ids[stays], None if states is None else take(states, stays)
        if not users or not len(ids):
            return TopK(*nothing(users, k, ids.device))
        starts = range(0, users, USER_TILE)
        found: TopK = join(
            [self._search(user_states, slice(at, at + USER_TILE), k, exclude, ids, states, masked) for at in starts]
        )
        return TopK(found.scores, torch.where(found.ids < 0, found.ids, ids[found.ids.clamp(min=0)]))

    def add(self, item_states: State, ids: Int[Tensor, " items"]) -> None:
        """Add items; an id that is there is replaced.

        Raises:
            InputError: as `build` does; nothing has changed then.
        """
        if self._states is None or not len(self._ids):
            return self.build(item_states, ids)
        stays = ~torch.isin(self._ids, ids)
        return self.build(join([take(self._states, stays), detach(item_states)]), torch.cat([self._ids[stays], ids]))

    def remove(self, ids: Int[Tensor, " items"]) -> None:
        """Remove items.

        Raises:
            InputError: if an id is not there; nothing has changed then.
        """
        check_there(ids, self._ids)
        stays = ~torch.isin(self._ids, ids)
        self._ids = self._ids[stays]
        self._states = None if self._states is None else take(self._states, stays)

    def save(self, folder: Path) -> None:
        """Write the items into ``folder`` as one safetensors file."""
        states = {} if self._states is None else to_tensors(self._states)
        with replacing_file(folder / FILE) as partial:
            save_file({"ids": self._ids, **{f"states.{name}": part for name, part in states.items()}}, partial)

    def restore(self, folder: Path) -> None:
        """Read what `save` wrote, in place of what was there.

        Raises:
            InputError: if the file is missing, is not of this format, or holds another model's states.
        """
        try:
            tensors = load_file(folder / FILE)
            ids = tensors.pop("ids")
            states = {name.removeprefix("states."): part for name, part in tensors.items()}
            self._states = self._read(states) if states else None
            self._ids = ids
        except FileNotFoundError:
            raise InputError(f"{folder / FILE}: no such file, so this folder holds no exact index") from None
        except (SafetensorError, KeyError, ValueError) as error:
            raise InputError(f"{folder / FILE}: not an index of this kind ({error})") from None

    def to(self, device: torch.device | str) -> None:
        """Move the items to a device: that of the user states to come."""
        self._ids = self._ids.to(device)
        self._states = None if self._states is None else map_state(lambda part: part.to(device), self._states)

    def _search(
        self,
        user_states: State,
        part: slice,
        k: int,
        exclude: Tensor | None,
        ids: Tensor,
        states: State,
        masked: Tensor | None,
    ) -> TopK:
        users = take(user_states, part)
        left_out = None
        if exclude is not None:
            unwanted = exclude[part].to(ids.device).contiguous()
            columns = torch.searchsorted(ids, unwanted).clamp(max=len(ids) - 1)
            found = ids[columns] == unwanted
            left_out = found.nonzero()[:, 0], columns[found]
        with torch.no_grad():
            return top_k_of_tiles(masked_tiles(self._score, users, states, ITEM_TILE, left_out, masked), k)
