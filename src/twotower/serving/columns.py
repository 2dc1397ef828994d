"""Columns of an item beside an answer: as plain values for JSON, and as a few short cells for a person."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

NAMES_FIRST = ("title", "name", "headline", "product_name")
"""Columns that tell a person what an item is, best first."""


def plain(value: Any) -> Any:
    """Return a value that JSON can hold: NaN and infinity become None, dates and the rest their text.

    Examples:
        >>> import datetime
        >>> plain([1.5, float("nan"), datetime.date(1999, 12, 31), Decimal("2.50")])
        [1.5, None, '1999-12-31', 2.5]
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def telling(rows: Iterable[dict[str, Any]], limit: int = 3) -> list[str]:
    """Return at most ``limit`` columns to show a person: those that name an item, then the first that hold text.

    Examples:
        >>> telling([{"year": 1995, "genres": ["Drama"], "title": "Heat"}])
        ['title', 'genres', 'year']
    """
    kinds: dict[str, bool] = {}
    for row in rows:
        for name, value in row.items():
            kinds[name] = kinds.get(name, False) or isinstance(value, (str, list))
    named = [name for wanted in NAMES_FIRST for name in kinds if name.lower() == wanted]
    rest = [name for name in kinds if name not in named]
    return (named + sorted(rest, key=lambda name: not kinds[name]))[:limit]


def cell(value: Any, width: int = 48) -> str:
    """Return one line of at most ``width`` characters.

    Examples:
        >>> cell(["Action", "Crime"]), cell(None), cell("a long  title", 8)
        ('Action, Crime', '', 'a long …')
    """
    words: Sequence[str] = [str(part) for part in value] if isinstance(value, list) else [str(value)]
    text = "" if value is None else " ".join(", ".join(words).split())
    return text if len(text) <= width else text[: width - 1] + "…"
