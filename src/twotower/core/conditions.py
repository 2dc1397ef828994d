"""Conditions on columns of items, as plain data: what a filter says, once it is parsed.

A missing value meets no comparison: ``year >= 1990`` is false where there is no year, and ``not year >= 1990`` true.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeAlias

Value: TypeAlias = str | int | float | bool


@dataclass(frozen=True)
class Column:
    """Name a column, and its place in the expression."""

    name: str
    at: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Compare:
    """Hold ``column sign value``; the sign is one of = < <= > >=."""

    column: Column
    sign: str
    value: Value
    at: int = field(default=0, compare=False)
    """Where the value stands."""


@dataclass(frozen=True)
class Among:
    """Hold ``column in (value, …)``."""

    column: Column
    values: tuple[Value, ...]
    places: tuple[int, ...] = field(default=(), compare=False)
    """Where the values stand."""


@dataclass(frozen=True)
class Contains:
    """Hold ``column contains value``: true where the list of the column has it."""

    column: Column
    value: Value
    at: int = field(default=0, compare=False)
    """Where the value stands."""


@dataclass(frozen=True)
class IsTrue:
    """Hold a column of true and false by itself."""

    column: Column


@dataclass(frozen=True)
class Not:
    """Hold what must not be so."""

    part: Condition


@dataclass(frozen=True)
class All:
    """Hold what must be so together."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True)
class Any:
    """Hold what must be so in one case at least."""

    parts: tuple[Condition, ...]


Condition: TypeAlias = Compare | Among | Contains | IsTrue | Not | All | Any


def moment(text: str) -> datetime | None:
    """Return the time that a text such as 1999-12-31T02:00:00+03:00 names, in universal time; None: it names none.

    Examples:
        >>> moment("1999-12-31T02:00:00+03:00"), moment("yesterday")
        (datetime.datetime(1999, 12, 30, 23, 0), None)
    """
    try:
        when = datetime.fromisoformat(text)
        return when.replace(tzinfo=None) - (when.utcoffset() or timedelta(0))
    except (ValueError, OverflowError):
        return None


def columns_of(condition: Condition) -> set[str]:
    """Return the names of all columns that a condition reads.

    Examples:
        >>> sorted(columns_of(All((IsTrue(Column("adult")), Compare(Column("year"), ">=", 1990)))))
        ['adult', 'year']
    """
    if isinstance(condition, Not):
        return columns_of(condition.part)
    if isinstance(condition, All | Any):
        return {name for part in condition.parts for name in columns_of(part)}
    return {condition.column.name}
