"""The scorer protocol."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from twotower.core.records import State


@runtime_checkable
class Scorer(Protocol):
    """Scores before temperature; the logit is score / temperature − log q."""

    @property
    def inner_product(self) -> bool:
        """True when score = <user vector, item vector>, so that a vector index can serve it."""
        ...

    def prepare(self, vectors: Tensor) -> State:
        """Turn a tower's output into the state that is stored and scored: itself, or at length 1."""
        ...

    def __call__(self, users: State, items: State) -> Tensor:
        """Every user with every item: [users, items]."""
        ...

    def pairs(self, users: State, items: State) -> Tensor:
        """Row i of users with row i of items: [rows]; or with items [rows, n, …], each of its n items: [rows, n]."""
        ...
