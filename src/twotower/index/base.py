"""Index protocols: one that knows no model, and one that scores by a model while it searches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from twotower.core.conditions import Condition
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


@runtime_checkable
class TunableIndex(Index, Protocol):
    """Search harder or less hard, at the price of time: what ``twotower index --tune`` sets."""

    @property
    def effort(self) -> str:
        """Return the name of the setting that trades recall for time in a search."""
        ...

    @property
    def least_effort(self) -> int:
        """Return where a search for the right effort begins."""
        ...

    def set_effort(self, value: int) -> None:
        """Search with another effort from the next call on; nothing is built again."""
        ...

    def most_effort(self) -> int:
        """Return the effort beyond which a search finds nothing more, or a scan is quicker."""
        ...


@runtime_checkable
class AnswersByAddress(Protocol):
    """Search by an engine that runs elsewhere and may be silent."""

    def ping(self) -> None:
        """Return when the engine answers.

        Raises:
            UnavailableError: if it does not, at the last try either.
            InputError: if it refuses, or its address is not given.
        """
        ...


@runtime_checkable
class KeptElsewhere(Protocol):
    """Keep its items in a collection of an engine with an address, which stays when a bundle's folder goes."""

    @property
    def collection(self) -> str:
        """Return the name of its collection, which no other build has; empty before it is built."""
        ...

    @classmethod
    def delete_collection(cls, name: str) -> bool:
        """Delete a collection, and return whether it was there."""
        ...


@runtime_checkable
class ReadsUsers(Protocol):
    """Read some users before it is built, since it orders items by what users want."""

    @property
    def users_wanted(self) -> int:
        """Return how many users it reads, at most; 0: it needs none."""
        ...

    def read_users(self, user_states: State) -> None:
        """Take the states of users like those who will ask; they hold from the next `Index.build` on."""
        ...


@runtime_checkable
class ReadsEvents(Protocol):
    """Read how many events each item has before it is built, for users with the same score for every item."""

    def read_events(self, events: Tensor) -> None:
        """Take the number of events of each item, by its id; they hold from now on."""
        ...


@runtime_checkable
class FillsShortAnswers(Protocol):
    """Fill short answers: score all items for the users whose lists hold too few."""

    def search_lists(self, user_states: State, k: int, exclude: Tensor | None = None) -> TopK:
        """Find what the lists alone hold, unfilled: what a tuning of their effort has to go by."""
        ...


class ItemColumn(NamedTuple):
    """Hold a column of items: its kind (text, number, flag or time), whether it is one of lists, and the values."""

    kind: str
    is_list: bool
    values: Sequence[Any]
    """One an item: None where it is missing; a list where it is a column of lists; times as texts in ISO form."""


@runtime_checkable
class FiltersColumns(Protocol):
    """Search among items that a condition on their columns lets through, beside what `Index` has."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the names of the columns that it wants."""
        ...

    def set_columns(self, ids: Tensor, columns: Mapping[str, ItemColumn]) -> None:
        """Take the columns of these items, which are there."""
        ...

    def answers(self, condition: Condition) -> bool:
        """Return whether `search_where` can answer a condition: if not, the caller gives a mask to `Index.search`."""
        ...

    def search_where(self, user_states: State, k: int, exclude: Tensor | None, condition: Condition) -> TopK:
        """Find the best ``k`` items a user among those that a condition lets through; else as `Index.search`."""
        ...


AnyIndex: TypeAlias = Index | ModelIndex
