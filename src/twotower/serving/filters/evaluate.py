"""Evaluation of a condition: checked against the columns of the items, and looked up in them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Any

import numpy as np

from twotower.core.conditions import All, Among, Compare, Condition, Contains, IsTrue, Not
from twotower.core.errors import shown
from twotower.serving.filters.columns import ItemColumns, Mask, Values, comparable
from twotower.serving.filters.words import fault


def check(condition: Condition, columns: ItemColumns) -> None:
    """Refuse a condition that these columns cannot answer.

    Raises:
        InputError: names the place, and what is wanted there.
    """
    if isinstance(condition, Not):
        return check(condition.part, columns)
    if isinstance(condition, Compare | Among | Contains | IsTrue):
        return _check_one(condition, columns)
    for part in condition.parts:
        check(part, columns)
    return None


def passing(condition: Condition, columns: ItemColumns) -> Mask:
    """Return which rows of items pass a condition that `check` has let through: bool [rows of items]."""
    if isinstance(condition, Not):
        return ~passing(condition.part, columns)
    if isinstance(condition, Compare | Among | Contains | IsTrue):
        mask = np.zeros(columns.num_rows, dtype=np.bool_)
        values = columns.values(condition.column.name)
        mask[values.rows[_hits(condition, values)]] = True
        return mask
    masks = [passing(part, columns) for part in condition.parts]
    return np.logical_and.reduce(masks) if isinstance(condition, All) else np.logical_or.reduce(masks)


def _check_one(condition: Compare | Among | Contains | IsTrue, columns: ItemColumns) -> None:
    column = condition.column
    kind, is_list = columns.kind(column)
    name = shown(column.name, 40)
    if isinstance(condition, Contains):
        if not is_list:
            raise fault(column.at, f"column {name} holds no lists, which 'contains' looks into; compare it by =")
    elif is_list:
        raise fault(column.at, f"column {name} holds lists; ask by {column.name} contains …")
    if isinstance(condition, IsTrue):
        if kind != "flag":
            end = column.at + len(column.name)
            raise fault(end, f"column {name} is not of true and false; a sign and a value are wanted after it")
    elif isinstance(condition, Among):
        for value, at in zip(condition.values, condition.places, strict=True):
            comparable(kind, value, at, column)
    else:
        comparable(kind, condition.value, condition.at, column)


def _hits(condition: Compare | Among | Contains | IsTrue, values: Values) -> Mask:
    stored = values.values
    if isinstance(condition, IsTrue):
        return stored.astype(np.bool_)
    if isinstance(condition, Among):
        wanted = [_number(values, comparable(values.kind, value, 0, condition.column)) for value in condition.values]
        numbers = [number for number in wanted if number is not None]
        return np.isin(stored, np.array(numbers)) if numbers else np.zeros(len(stored), dtype=np.bool_)
    sign = condition.sign if isinstance(condition, Compare) else "="
    value = comparable(values.kind, condition.value, 0, condition.column)
    if values.texts is not None:
        return _of_texts(values, sign, str(value))
    return _compared(stored, sign, value)


def _number(values: Values, value: Any) -> Any:
    """The value as it is stored; None: no item has that text."""
    if values.texts is None:
        return value
    place = bisect_left(values.texts, value)
    return place if place < len(values.texts) and values.texts[place] == value else None


def _of_texts(values: Values, sign: str, value: str) -> Mask:
    assert values.texts is not None, "a column of texts"
    if sign == "=":
        number = _number(values, value)
        return np.zeros(len(values.values), dtype=np.bool_) if number is None else values.values == number
    below = (bisect_left if sign in ("<", ">=") else bisect_right)(values.texts, value)
    found: Mask = values.values < below if sign in ("<", "<=") else values.values >= below
    return found


def _compared(stored: Any, sign: str, value: Any) -> Mask:
    signs = {"=": np.equal, "<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal}
    found: Mask = signs[sign](stored, value)
    return found
