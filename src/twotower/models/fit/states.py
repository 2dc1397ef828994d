"""States of FIT: items, whole or compact, and users."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from twotower.core.errors import InputError, unknown_name
from twotower.core.states import from_tensors
from twotower.models.item_store import ItemStore

PRECISIONS = ("float32", "float16", "int8")


class FITItems(NamedTuple):
    """Hold ``query_index`` [items], the hard query (uint8 up to 256 of them), and ``heads`` [items, heads, dim]."""

    query_index: Tensor
    heads: Tensor


class FITCompactItems(NamedTuple):
    """Hold `FITItems` in bytes: ``heads`` is int8 and counts in steps of ``step`` (float16 [items])."""

    query_index: Tensor
    heads: Tensor
    step: Tensor


class PairedHeads(NamedTuple):
    """Hold users encoded for their own row's item: ``heads`` [rows, heads, dim] under the soft query."""

    heads: Tensor


def smallest_index(index: Int[Tensor, " items"], count: int) -> Integer[Tensor, " items"]:
    """Return the same numbers, all below ``count``, in as few bytes as they need."""
    if count <= 2**8:
        return index.to(torch.uint8)
    return index.to(torch.int16 if count <= 2**15 else torch.int32)


def compact(items: FITItems, precision: str) -> FITItems | FITCompactItems:
    """Quantise item states: "float16" halves the heads, "int8" quarters them (rounded per item).

    The model scores them as they are; heads become float32 again once candidates are gathered.

    Raises:
        InputError: if the precision is unknown, or these are not FIT's item states.

    Examples:
        >>> states = FITItems(torch.zeros(3, dtype=torch.uint8), torch.ones(3, 2, 64))
        >>> [bytes_per_item(compact(states, precision)) for precision in PRECISIONS]
        [513.0, 257.0, 131.0]
    """
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    check_items(items)
    if precision == "float32":
        return items._replace(heads=items.heads.float())
    if precision == "float16":
        return items._replace(heads=items.heads.half())
    step = (items.heads.abs().amax(dim=(1, 2)) / 127).half()
    # float16 may round a small step to 0 or down, so the count is taken with the step that will be read back.
    steps = torch.where(step > 0, step, 1).float()[:, None, None]
    return FITCompactItems(items.query_index, (items.heads / steps).round().clamp(-127, 127).to(torch.int8), step)


def whole_heads(items: FITItems | FITCompactItems, dtype: torch.dtype) -> Float[Tensor, "*items heads dim"]:
    """Return the heads as numbers of ``dtype``."""
    heads = items.heads.to(dtype)
    return heads * items.step.to(dtype)[..., None, None] if isinstance(items, FITCompactItems) else heads


def bytes_per_item(items: FITItems | FITCompactItems) -> float:
    """Return the bytes that one item's state takes."""
    return sum(part.numel() * part.element_size() for part in items) / len(items.query_index)


def check_items(items: object) -> None:
    """Refuse what is not FIT's item states.

    Raises:
        InputError: says what came.
    """
    if not isinstance(items, FITItems | FITCompactItems):
        raise InputError(f"FIT scores its own item states (FITItems), got {type(items).__name__}: another model's?")


class FITStore(ItemStore):
    """Store FIT's item states, whole or compact.

    Args:
        head_shape: heads of an item and their width; None: any.
        queries: meta queries that an item may name; 0: any number.
    """

    def __init__(self, head_shape: tuple[int, int] | None = None, queries: int = 0) -> None:
        super().__init__(FITItems)
        self.head_shape, self.queries = head_shape, queries

    def read(self, tensors: dict[str, Tensor]) -> FITItems | FITCompactItems:
        """Make item states of the tensors of a file, whole or compact.

        Raises:
            ValueError: if they are another model's.
        """
        states: FITItems | FITCompactItems = from_tensors(tensors, FITCompactItems if "step" in tensors else FITItems)
        if self.head_shape is not None:
            check_head_shape(states, self.head_shape)
        named = states.query_index
        if self.queries and len(named) and int(named.max()) >= self.queries:
            raise ValueError(
                f"they name query {int(named.max())}, the model has {self.queries}: another model's states?"
            )
        return states

    def compact(self, states: FITItems, precision: str) -> FITItems | FITCompactItems:
        """Return heads as "float32", "float16" or "int8": see `compact`."""
        return compact(states, precision)

    def whole(self, states: FITItems | FITCompactItems) -> FITItems:
        """Return heads as float32, whatever they are stored as."""
        return FITItems(states.query_index, whole_heads(states, torch.float32))


def check_head_shape(items: FITItems | FITCompactItems, shape: tuple[int, int]) -> None:
    """Refuse item states of other heads than a model's.

    Raises:
        InputError: names both shapes.
    """
    check_items(items)
    if tuple(items.heads.shape[-2:]) != shape:
        raise InputError(
            f"FIT scores items of {shape[0]} heads of {shape[1]}, got {tuple(items.heads.shape)}: another model's "
            "states?"
        )


def checked_users(users: object) -> Tensor:
    """Return user states that any item may be scored with.

    Raises:
        InputError: if they were made for single pairs in training, or are another model's.
    """
    if isinstance(users, PairedHeads):
        raise InputError(
            "FIT's training rows are made for their own item, so other items would be scored with its help; "
            "train on labelled rows (data.split = 'pre-ranking') with a pointwise loss (objective.loss = 'bce')"
        )
    if not isinstance(users, Tensor) or users.ndim != 4:
        raise InputError("FIT scores its own user states [users, queries, heads, dim]: another model's states?")
    return users
