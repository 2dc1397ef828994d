"""Axes of a search: for each key of a run a range of numbers, or a list of values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from twotower.core.errors import InputError, shown, unknown_name

Value: TypeAlias = int | float | str | bool

MARGIN = 0.05
"""A value within this share of a range's length from its end lies at its edge."""


@dataclass(frozen=True)
class Range:
    """Number from ``low`` to ``high``, both included; with ``log`` as many below as above the geometric mean."""

    low: float
    high: float
    log: bool = False
    whole: bool = False
    """Whether only whole numbers are tried."""

    def holds(self, value: Value) -> bool:
        """Return whether a value may be tried."""
        return is_number(value) and self.low <= float(value) <= self.high

    def widened(self, value: Value) -> Range:
        """Return the range widened to hold ``value`` too, where that is a number."""
        if not is_number(value) or (self.log and float(value) <= 0.0):
            return self
        return replace(self, low=min(self.low, float(value)), high=max(self.high, float(value)))

    def edge(self, value: Value) -> str:
        """Return the edge that a value is at ("lowest", "highest"), or nothing; 0 is none: nothing is below it."""
        scale = math.log if self.log else float
        share = (scale(float(value)) - scale(self.low)) / (scale(self.high) - scale(self.low))
        if share <= MARGIN and self.low != 0.0:
            return "lowest"
        return "highest" if share >= 1.0 - MARGIN else ""

    def to_json(self) -> dict[str, Any]:
        """Return the form in a run file."""
        return {"low": self.low, "high": self.high, "log": self.log}


@dataclass(frozen=True)
class Grid:
    """Hold a list of values: numbers in ascending order, or texts, or true and false."""

    values: tuple[Value, ...]

    @property
    def ordered(self) -> bool:
        """Return whether the values are numbers, so that the list has edges."""
        return all(is_number(value) for value in self.values)

    def holds(self, value: Value) -> bool:
        """Return whether a value may be tried."""
        return any(value == known and isinstance(value, bool) == isinstance(known, bool) for known in self.values)

    def widened(self, value: Value) -> Grid:
        """Return the list with ``value`` too."""
        if self.holds(value) or not isinstance(value, int | float | str):
            return self
        values = (*self.values, value)
        return Grid(tuple(sorted(values, key=float)) if Grid(values).ordered else values)

    def edge(self, value: Value) -> str:
        """Return the edge that a value is at; 0 is none, nor a single layer or head, since nothing is below."""
        if not self.ordered or len(self.values) < 2:
            return ""
        first, last = self.values[0], self.values[-1]
        natural = first == 0 or (isinstance(first, int) and first == 1)
        if value == first and not natural:
            return "lowest"
        return "highest" if value == last else ""

    def to_json(self) -> list[Value]:
        """Return the form in a run file."""
        return list(self.values)


Axis: TypeAlias = Range | Grid


def is_number(value: object) -> bool:
    """Return whether a value is a finite number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def axis_of(key: str, value: Any, where: str = "[tune]") -> Axis:
    """Return what a user wrote for a key: a list of values, a table with low and high, or one value (no tuning of it).

    Raises:
        InputError: if it is neither, or empty, or upside down.

    Examples:
        >>> axis_of("training.learning_rate", {"low": 0.001, "high": 0.1, "log": True})
        Range(low=0.001, high=0.1, log=True, whole=False)
        >>> axis_of("model.dropout", [0.5, 0.1])
        Grid(values=(0.1, 0.5))
    """
    if isinstance(value, Mapping):
        for name in value:
            if name not in ("low", "high", "log"):
                raise unknown_name("key", f"{key}.{name}", [f"{key}.{one}" for one in ("low", "high", "log")], where)
        low, high, log = value.get("low"), value.get("high"), value.get("log", False)
        if not (is_number(low) and is_number(high) and isinstance(log, bool)):
            raise InputError(f"{where}: {key} = {shown(value)}: write {{low = 0.001, high = 0.1, log = true}}")
        if not float(str(low)) < float(str(high)) or (log and float(str(low)) <= 0.0):
            raise InputError(f"{where}: {key}: low must lie below high{', and above 0 with log' if log else ''}")
        return Range(float(str(low)), float(str(high)), log)
    values = value if isinstance(value, list | tuple) else [value]
    if not values:
        raise InputError(f"{where}: {key} is an empty list; name the values to try, or leave the key out")
    for one in values:
        if not isinstance(one, str | bool) and not is_number(one):
            raise InputError(f"{where}: {key}: {shown(one)} is neither a number, a text, true nor false")
    kept = tuple(dict.fromkeys(values))
    return Grid(tuple(sorted(kept, key=float)) if Grid(kept).ordered else kept)
