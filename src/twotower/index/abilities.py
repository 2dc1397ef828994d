"""Abilities that some indexes have beside those of `Index`: protocols, which callers ask for by `isinstance`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from twotower.core.conditions import Condition
from twotower.core.records import State, TopK
from twotower.index.base import Index


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
