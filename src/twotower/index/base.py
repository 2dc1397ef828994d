"""The index protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor

from twotower.core.records import State, TopK


@runtime_checkable
class Index(Protocol):
    """Finds the best items for user states.

    Fewer than k allowed answers are padded with id -1 and score -inf; an excluded item never comes back.
    """

    @property
    def is_exact(self) -> bool:
        """True when the answers are the true top k."""
        ...

    def build(self, item_states: State, ids: Tensor) -> None:
        """Index ``item_states`` under ``ids`` (int64 [items]), in place of what was there."""
        ...

    def search(self, user_states: State, k: int, exclude: Tensor | None = None) -> TopK:
        """The best ``k`` items a user; ``exclude`` is int64 [users, n] of ids not to return, -1 where unused."""
        ...

    def add(self, item_states: State, ids: Tensor) -> None:
        """Add items; an id that is there is replaced."""
        ...

    def remove(self, ids: Tensor) -> None:
        """Remove items; an id that is not there is an error."""
        ...

    def save(self, folder: Path) -> None:
        """Write the index into ``folder``."""
        ...

    @classmethod
    def load(cls, folder: Path) -> Index:
        """Read what `save` wrote."""
        ...
