"""Tower protocols: users -> state, items -> state."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from twotower.core.records import Items, State, Users


@runtime_checkable
class UserTower(Protocol):
    """Encode users."""

    def __call__(self, users: Users) -> State:
        """Return a state with one row a user."""
        ...


@runtime_checkable
class ItemTower(Protocol):
    """Encode items."""

    def __call__(self, items: Items) -> State:
        """Return a state with one row an item."""
        ...
