"""Input checks of every index, and the filter of items that may be returned."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import State
from twotower.core.states import rows


def sorted_ids(item_states: State, ids: Int[Tensor, " items"]) -> tuple[Tensor, Tensor]:
    """Return the ids ascending and the order that sorts them.

    Raises:
        InputError: if the numbers of states and ids differ, an id comes twice or is below 0.
    """
    if rows(item_states) != len(ids):
        raise InputError(f"index: {rows(item_states)} item states for {len(ids)} ids; each state needs one id")
    ids, order = ids.sort()
    if len(ids) and ids[0] < 0:
        raise InputError(f"index: ids must be 0 or more, got {int(ids[0])}")
    twice = ids[1:][ids[1:] == ids[:-1]]
    if len(twice):
        raise InputError(f"index: id {int(twice[0])} comes more than once")
    return ids, order


def check_question(users: int, k: int, exclude: Tensor | None) -> None:
    """Refuse a search that cannot be answered.

    Raises:
        InputError: if ``k`` is below 1, or ``exclude`` is not one row a user.
    """
    if k < 1:
        raise InputError(f"k must be at least 1, got {k}")
    if exclude is not None and (exclude.ndim != 2 or len(exclude) != users):
        raise InputError(f"index: exclude has {len(exclude)} rows for {users} users")


def check_there(ids: Tensor, present: Tensor) -> None:
    """Refuse to remove what is not there.

    Raises:
        InputError: names the first id that is absent.
    """
    absent = ids[~torch.isin(ids, present)]
    if len(absent):
        raise InputError(f"index: no item has id {int(absent[0])}, so it cannot be removed")


def allowed_among(ids: Int[Tensor, " items"], allow: Tensor) -> Bool[Tensor, " items"]:
    """Return which of ``ids`` may be returned: see `twotower.index.base.Index.search`.

    Raises:
        InputError: if ``allow`` is neither a boolean mask over ids nor a list of int64 ids.
    """
    if allow.ndim != 1 or allow.dtype not in (torch.bool, torch.int64):
        raise InputError(
            "index: allow is a boolean mask over ids, or int64 ids, of one axis; "
            f"got {str(allow.dtype).removeprefix('torch.')} of shape {list(allow.shape)}"
        )
    allow = allow.to(ids.device)
    if allow.dtype == torch.int64:
        return torch.isin(ids, allow)
    if not len(allow):
        return torch.zeros_like(ids, dtype=torch.bool)
    return allow[ids.clamp(max=len(allow) - 1)] & (ids < len(allow))


def nothing(users: int, k: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return scores and ids of an answer without any item."""
    return torch.full((users, k), -torch.inf, device=device), torch.full((users, k), -1, device=device)
