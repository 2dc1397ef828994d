"""Columns of Python objects as arrays of one type."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twotower.core.errors import InputError


def plain(values: list[Any], where: str, strict: bool) -> NDArray[Any]:
    """Convert objects to an array of one type, None where a value is missing; lists of any sort become lists.

    Raises:
        InputError: if ``strict`` and they are of several types, says how many of each; or if they have no text of their
            own, as dicts have none.
    """
    values = [None if _is_missing(value) else value for value in values]
    families: Counter[str] = Counter()
    for kind, count in Counter(map(type, values)).items():
        families[_family(kind)] += count
    families.pop("missing", None)
    aware = sum(_has_zone(value) for value in values) if "datetimes" in families else 0
    if 0 < aware < families["datetimes"]:
        families["datetimes"] -= aware
        families["datetimes with a zone"] = aware
    if len(families) > 1 and not families.keys() <= {"whole numbers", "numbers"}:
        said = ", ".join(f"{count:,} {family}" for family, count in families.most_common())
        if strict:
            raise InputError(f"{where} holds values of several types: {said}; convert it to one of them")
        families = Counter({"mixed": 1})
    family = next(iter(families), "missing")
    if strict and family == "other objects":
        _check_texts(values, where)
    if family in ("lists", "UUIDs", "other objects", "mixed"):
        change = _listed if family == "lists" else str
        values = [None if value is None else change(value) for value in values]
    elif family == "texts":  # of numpy, of an enumeration: as plain ones, which every version of DuckDB reads
        values = [None if value is None else str.__str__(value) for value in values]
    elif strict and families.keys() == {"whole numbers"} and not all(map(_of_64_bits, values)):
        values = [None if value is None else str(value) for value in values]  # older ones make them floating point
    array = np.empty(len(values), dtype=object)
    for place, value in enumerate(values):  # a slice would take lists of one length for a second axis
        array[place] = value
    return array


def _family(kind: type[Any]) -> str:
    names = {base.__name__ for base in kind.__mro__}
    for family, words in (
        ("missing", {"NoneType"}),
        ("truth values", {"bool", "bool_"}),
        ("whole numbers", {"int", "integer"}),
        ("numbers", {"float", "floating", "Decimal"}),
        ("texts", {"str"}),
        ("UUIDs", {"UUID"}),
        ("datetimes", {"datetime", "datetime64"}),
        ("dates", {"date"}),
        ("bytes", {"bytes"}),
        ("lists", {"list", "tuple", "set", "frozenset", "ndarray"}),
    ):
        if names & words:
            return family
    return "other objects"


def _check_texts(values: list[Any], where: str) -> None:
    """Refuse objects whose text is no name of theirs: dicts, and what shows nothing but its place in memory."""
    for kind in {type(value) for value in values if value is not None}:
        shows = any({"__str__", "__repr__"} & vars(base).keys() for base in kind.__mro__ if base is not object)
        if issubclass(kind, dict) or not shows:
            raise InputError(f"{where} holds values of type {kind.__name__[:80]}; convert them to numbers or texts")


def _of_64_bits(value: Any) -> bool:
    return value is None or -(2**63) <= value < 2**64


def _has_zone(value: Any) -> bool:
    return getattr(value, "tzinfo", None) is not None


def _listed(value: Any) -> list[Any]:
    if isinstance(value, np.ndarray):
        return list(value.tolist())
    return sorted(value, key=str) if isinstance(value, set | frozenset) else list(value)


def _is_missing(value: Any) -> bool:
    if value is None:
        return True
    if isinstance(value, float | np.floating):
        return bool(value != value)
    if isinstance(value, np.datetime64):
        return bool(np.isnat(value))
    return type(value).__name__ in ("NAType", "NaTType")
