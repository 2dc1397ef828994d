"""Item store: which tensors of a model's item states are in a file, and at which precisions."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import State
from twotower.core.states import from_tensors


class ItemStore:
    """Store item states as they are: a tensor, or the tensors of one NamedTuple.

    A model with other forms has its own store.

    Args:
        kind: NamedTuple of the item states; None for a plain tensor.
    """

    def __init__(self, kind: type[Any] | None = None) -> None:
        self.kind = kind

    def read(self, tensors: dict[str, Tensor]) -> State:
        """Make item states of the tensors of a file, as `twotower.core.states.to_tensors` named them.

        Raises:
            ValueError: if they are another model's.
        """
        return from_tensors(tensors, self.kind)

    def compact(self, states: State, precision: str) -> State:
        """Quantise item states to ``precision``; the model's ``score`` takes them as it takes whole ones.

        Raises:
            InputError: if the precision is unknown, or the states are stored in one way alone.
        """
        raise InputError(f"precision '{precision}': this model stores item states in one way alone")

    def whole(self, states: State) -> State:
        """Dequantise item states to float32: the inverse of `compact` up to rounding."""
        return states
