"""Parser of filter expressions: ``genre = 'Comedy' and year >= 1990 and not adult``."""

from __future__ import annotations

from collections.abc import Callable

from twotower.core.conditions import All, Among, Any, Column, Compare, Condition, Contains, IsTrue, Not, Value
from twotower.core.errors import InputError, shown
from twotower.serving.filters.words import Word, fault, words_of

DEEPEST = 50
"""Parentheses and ``not`` within each other."""

_SIGNS = ("=", "<", "<=", ">", ">=", "!=", "<>")


def parse(expression: str) -> Condition:
    """Return what an expression says.

    ``or`` binds weakest, then ``and``, then ``not``. A column is named as it is, or in double quotes; texts stand in
    single quotes.

    Raises:
        InputError: names the place that is wrong, and what is wanted there.

    Examples:
        >>> parse("year >= 1990")
        Compare(column=Column(name='year', at=0), sign='>=', value=1990, at=8)
    """
    return _Parser(words_of(expression)).whole()


class _Parser:
    def __init__(self, words: list[Word]) -> None:
        self._words = words
        self._place = 0
        self._depth = 0

    def whole(self) -> Condition:
        if self._now.kind == "end":
            raise InputError("the filter is empty; write such as genre = 'Comedy' and year >= 1990")
        condition = self._any()
        if self._now.kind != "end":
            raise self._unwanted("'and', 'or' or the end")
        return condition

    @property
    def _now(self) -> Word:
        return self._words[self._place]

    def _any(self) -> Condition:
        parts = [self._all()]
        while self._took("keyword", "or"):
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else Any(tuple(parts))

    def _all(self) -> Condition:
        parts = [self._one()]
        while self._took("keyword", "and"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def _one(self) -> Condition:
        at = self._now.at
        if self._took("keyword", "not"):
            return Not(self._deeper(at, self._one))
        if self._took("sign", "("):
            inner = self._deeper(at, self._any)
            if not self._took("sign", ")"):
                raise self._unwanted(f"')' for the '(' at character {at + 1}")
            return inner
        if self._now.kind != "name":
            raise self._unwanted("the name of a column, 'not' or '('")
        word = self._next()
        return self._about(Column(str(word.value), word.at))

    def _deeper(self, at: int, read: Callable[[], Condition]) -> Condition:
        self._depth += 1
        if self._depth > DEEPEST:
            raise fault(at, f"more than {DEEPEST} parentheses and 'not' within each other; write it flat")
        condition = read()
        self._depth -= 1
        return condition

    def _about(self, column: Column) -> Condition:
        if self._now.kind == "sign" and self._now.value in _SIGNS:
            sign = str(self._next().value)
            value, at = self._value()
            if sign in ("!=", "<>"):
                return Not(Compare(column, "=", value, at))
            return Compare(column, sign, value, at)
        if self._took("keyword", "contains"):
            return Contains(column, *self._value())
        if self._took("keyword", "in"):
            return self._among(column)
        if self._now.kind == "keyword" and self._now.value == "not" and self._words[self._place + 1].value == "in":
            self._place += 2
            return Not(self._among(column))
        if self._now.kind == "end" or self._now.value in ("and", "or", ")"):
            return IsTrue(column)
        raise self._unwanted(f"a sign after column {shown(column.name, 40)}, such as = or >=, 'in' or 'contains'")

    def _among(self, column: Column) -> Among:
        if not self._took("sign", "("):
            raise self._unwanted("a list of values such as (1, 2)")
        read = [self._value()]
        while self._took("sign", ","):
            read.append(self._value())
        if not self._took("sign", ")"):
            raise self._unwanted("',' or ')' in the list of values")
        return Among(column, tuple(value for value, _ in read), tuple(at for _, at in read))

    def _value(self) -> tuple[Value, int]:
        word = self._now
        if word.kind in ("text", "number"):
            return self._next().value, word.at
        if word.kind == "keyword" and word.value in ("true", "false"):
            return self._next().value == "true", word.at
        if word.kind == "name":
            name = shown(str(word.value), 40)
            raise fault(word.at, f"{name} is no value; a text stands in single quotes: {name}")
        raise self._unwanted("a value (a text in single quotes, a number, true or false)")

    def _took(self, kind: str, value: str) -> bool:
        here = self._now.kind == kind and self._now.value == value
        self._place += here
        return here

    def _next(self) -> Word:
        self._place += 1
        return self._words[self._place - 1]

    def _unwanted(self, wanted: str) -> InputError:
        found = "the filter ends" if self._now.kind == "end" else f"there is {shown(str(self._now.value), 40)}"
        return fault(self._now.at, f"{wanted} is wanted here, but {found}")
