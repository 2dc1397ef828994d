"""Scorer protocol."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from twotower.core.records import State


@runtime_checkable
class Scorer(Protocol):
    """Score users with items, before temperature; the logit is score / temperature − log q."""

    @property
    def inner_product(self) -> bool:
        """Return True when score = ⟨user vector, item vector⟩, so that a vector index can serve it."""
        ...

    def prepare(self, vectors: Tensor) -> State:
        """Return the state that is stored and scored for a tower's output: itself, or at length 1."""
        ...

    def __call__(self, users: State, items: State) -> Tensor:
        """Score every user with every item: [users, items]."""
        ...

    def pairs(self, users: State, items: State) -> Tensor:
        """Score row i of users with row i of items: [rows].

        With items [rows, n, …], each of its n items: [rows, n].
        """
        ...
