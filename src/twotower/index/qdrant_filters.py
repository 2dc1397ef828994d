"""Conditions as filters of Qdrant: plain dictionaries as its server takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any as Value

from twotower.core.conditions import All, Among, Any, Compare, Condition, Contains, IsTrue, Not, moment
from twotower.index.abilities import ItemColumn
from twotower.index.store_answers import Where

SCHEMAS = {"text": "keyword", "number": "float", "flag": "keyword", "time": "datetime"}
"""Payload index of each kind of column; true and false are kept as words, which every client tells from 1 and 0."""

_BOUNDS = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}
_MOST_VALUES = 500
_EXACT = 1 << 53
"""Whole numbers below are the same as float64, in which Qdrant compares."""


def takes(condition: Condition, kinds: Mapping[str, tuple[str, bool]]) -> bool:
    """Return whether Qdrant can answer: it orders no texts, and whole numbers beyond 2^53 run together in it."""
    if isinstance(condition, Not):
        return takes(condition.part, kinds)
    if isinstance(condition, All | Any):
        return all(takes(part, kinds) for part in condition.parts)
    if isinstance(condition, Among):
        return len(condition.values) <= _MOST_VALUES and all(map(_fits, condition.values))
    if isinstance(condition, Compare):
        ordered = condition.sign != "=" and kinds[condition.column.name][0] == "text"
        return not ordered and _fits(condition.value)
    return isinstance(condition, IsTrue) or _fits(condition.value)


def filter_of(where: Where, names: tuple[str, ...], kinds: Mapping[str, tuple[str, bool]]) -> dict[str, Value] | None:
    """Return what may come back as a filter of Qdrant; None: everything.

    Args:
        where: what may come back.
        names: columns; the one at place n is stored as ``cn``.
        kinds: of each column.
    """
    must: list[Value] = []
    if where.condition is not None:
        must.append(_of(where.condition, names, kinds))
    if where.among is not None:
        must.append({"has_id": list(where.among)})
    found: dict[str, Value] = {"must": must} if must else {}
    if where.without:
        found["must_not"] = [{"has_id": list(where.without)}]
    return found or None


def payload(columns: Mapping[int, ItemColumn], at: int) -> dict[str, Value]:
    """Return the columns of one item as they are stored."""
    return {
        f"c{place}": stored(column.kind, column.values[at])
        for place, column in columns.items()
        if column.values[at] is not None
    }


def stored(kind: str, value: Value) -> Value:
    """Return a value, or a list of such, as it is stored and looked for."""
    if kind != "flag":
        return value
    return [stored(kind, part) for part in value] if isinstance(value, list) else str(value).lower()


def _of(condition: Condition, names: tuple[str, ...], kinds: Mapping[str, tuple[str, bool]]) -> dict[str, Value]:
    if isinstance(condition, Not):
        return {"must_not": [_of(condition.part, names, kinds)]}
    if isinstance(condition, All | Any):
        return {
            "must" if isinstance(condition, All) else "should": [_of(part, names, kinds) for part in condition.parts]
        }
    name = condition.column.name
    key, (kind, _) = f"c{names.index(name)}", kinds[name]
    if isinstance(condition, IsTrue):
        return {"key": key, "match": {"value": stored(kind, True)}}
    if isinstance(condition, Among):
        if kind in ("text", "flag"):
            return {"key": key, "match": {"any": [stored(kind, value) for value in condition.values]}}
        return {"should": [_equal(key, kind, value) for value in condition.values]}
    if isinstance(condition, Contains) or condition.sign == "=":
        return _equal(key, kind, condition.value)
    return {"key": key, "range": {_BOUNDS[condition.sign]: _bound(kind, condition.value)}}


def _equal(key: str, kind: str, value: Value) -> dict[str, Value]:
    if kind in ("text", "flag"):
        return {"key": key, "match": {"value": stored(kind, value)}}
    bound = _bound(kind, value)
    return {"key": key, "range": {"gte": bound, "lte": bound}}


def _bound(kind: str, value: Value) -> Value:
    """A number as it is; a time as Qdrant reads it."""
    when = moment(value) if kind == "time" else None
    return value if when is None else f"{when.isoformat()}Z"


def _fits(value: Value) -> bool:
    return not isinstance(value, int) or isinstance(value, bool) or abs(value) <= _EXACT
