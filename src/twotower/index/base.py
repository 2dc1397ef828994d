"""Index protocols: one that knows no model, and one that scores by a model while it searches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from twotower.core.records import State, TopK


@runtime_checkable
class Index(Protocol):
    """Find the best items for user states. Its settings are keyword-only parameters of its class.

    Fewer than k allowed answers are padded with id -1 and score -inf; an excluded item never comes back.
    """

    @property
    def is_exact(self) -> bool:
        """Return True when the answers are the true top k."""
        ...

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings its class was called with, defaults included: a bundle stores them."""
        ...

    def build(self, item_states: State, ids: Tensor) -> None:
        """Index ``item_states`` under ``ids`` (int64 [items]), in place of what was there."""
        ...

    def search(self, user_states: State, k: int, exclude: Tensor | None = None, allow: Tensor | None = None) -> TopK:
        """Find the best ``k`` items a user.

        Args:
            user_states: who asks.
            k: answers a user.
            exclude: int64 [users, n] of ids not to return, -1 where unused.
            allow: what alone may come back, for all users alike: a boolean mask whose place i stands for id i, or
                int64 ids; None: every item.
        """
        ...

    def add(self, item_states: State, ids: Tensor) -> None:
        """Add items; an id that is there is replaced."""
        ...

    def remove(self, ids: Tensor) -> None:
        """Remove items; an id that is not there is an error."""
        ...

    def save(self, folder: Path) -> None:
        """Write the index and its settings into ``folder``."""
        ...

    @classmethod
    def load(cls, folder: Path, *, device: torch.device | str = "cpu") -> Index:
        """Read what `save` wrote, with its settings."""
        ...

    def to(self, device: torch.device | str) -> None:
        """Move to the device of the user states to come; an index that works elsewhere returns its answers there."""
        ...


@runtime_checkable
class ScoringModel(Protocol):
    """Give an index what it needs of a model: the score, and how item states are read from a file."""

    def score(self, users: Any, items: Any, /) -> Tensor:
        """Return the scores of every user with every item, a new tensor [users, items]."""
        ...

    @property
    def inner_product(self) -> bool:
        """Return whether the score is the inner product of two vectors."""
        ...

    @property
    def item_store(self) -> Any:
        """Return its `twotower.models.item_store.ItemStore`."""
        ...

    @property
    def user_kind(self) -> type[Any] | None:
        """Return the NamedTuple of the user states; None for a plain tensor."""
        ...


class ModelIndex(ABC):
    """Search by scoring with a model, so that any model can be served. It is made with the model.

    An index says so by inheriting this class. All else is as in `Index`.
    """

    @abstractmethod
    def __init__(self, model: ScoringModel) -> None: ...

    @property
    @abstractmethod
    def is_exact(self) -> bool:
        """Return True when the answers are the true top k."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return the settings its class was called with beside the model, defaults included."""

    @abstractmethod
    def build(self, item_states: State, ids: Tensor) -> None:
        """Index ``item_states`` under ``ids``, in place of what was there."""

    @abstractmethod
    def search(self, user_states: State, k: int, exclude: Tensor | None = None, allow: Tensor | None = None) -> TopK:
        """Find the best ``k`` items a user; see `Index.search`."""

    @abstractmethod
    def add(self, item_states: State, ids: Tensor) -> None:
        """Add items; an id that is there is replaced."""

    @abstractmethod
    def remove(self, ids: Tensor) -> None:
        """Remove items; an id that is not there is an error."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write all but the model into ``folder``."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, *, model: ScoringModel, device: torch.device | str = "cpu") -> ModelIndex:
        """Read what `save` wrote, for the same model."""

    @abstractmethod
    def to(self, device: torch.device | str) -> None:
        """Move to the device of the user states to come."""


AnyIndex: TypeAlias = Index | ModelIndex
