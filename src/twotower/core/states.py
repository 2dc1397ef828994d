"""Slice, join, store and move states, whatever their shape: a tensor, or a NamedTuple of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from twotower.core.records import State


def map_state(function: Callable[[Tensor], Tensor], state: State) -> State:
    """Apply ``function`` to each tensor of a state."""
    if isinstance(state, Tensor):
        return function(state)
    return type(state)(*(function(part) for part in state))


def take(state: State, index: Tensor | slice) -> State:
    """Return the rows of a state, by index, mask or slice."""
    return map_state(lambda part: part[index], state)


def join(states: Sequence[State]) -> State:
    """Join several states of the same kind into one, in order.

    Raises:
        ValueError: if ``states`` is empty.
    """
    if not states:
        raise ValueError("join needs at least one state, got none")
    if isinstance(states[0], Tensor):
        return torch.cat(list(states))
    return type(states[0])(*(torch.cat(parts) for parts in zip(*states, strict=True)))


def rows(state: State) -> int:
    """Return how many rows a state has."""
    return len(state) if isinstance(state, Tensor) else len(state[0])


def detach(state: State) -> State:
    """Return the state cut off from the graph."""
    return map_state(lambda part: part.detach(), state)


def to_tensors(state: State) -> dict[str, Tensor]:
    """Name each tensor of a state, for storage; `from_tensors` is the inverse.

    Examples:
        >>> list(to_tensors(torch.zeros(2, 3)))
        ['state']
    """
    if isinstance(state, Tensor):
        return {"state": state.contiguous()}
    return {name: part.contiguous() for name, part in zip(state._fields, state, strict=True)}


def from_tensors(tensors: dict[str, Tensor], kind: type[Any] | None = None) -> State:
    """Return a state from what `to_tensors` gave; ``kind`` is the NamedTuple, None for a plain tensor.

    Raises:
        ValueError: if the names are not those of ``kind``.
    """
    expected = ["state"] if kind is None else list(kind._fields)
    if sorted(tensors) != sorted(expected):
        raise ValueError(
            f"these item states hold {sorted(tensors)}, the model's are {expected}: another model's states?"
        )
    return tensors["state"] if kind is None else kind(**tensors)
