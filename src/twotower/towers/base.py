"""The tower protocols: users -> state, items -> state."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from twotower.core.records import Items, State, Users


@runtime_checkable
class UserTower(Protocol):
    """Encodes users."""

    def __call__(self, users: Users) -> State:
        """A state with one row a user."""
        ...


@runtime_checkable
class ItemTower(Protocol):
    """Encodes items."""

    def __call__(self, items: Items) -> State:
        """A state with one row an item."""
        ...
