"""Roles of a table's columns: coordinates, keys, labels or row numbers.

The rules, in this order:

1. A name says it: ``id``, ``movie_id``, ``key``, ``index``, ``Unnamed: 0``, an empty name, ``__index_level_0__`` are
   keys; ``title``, ``label``, ``count``, … are what they say.
2. Numbered names say it: where most columns count up from 0 or 1 behind the same word (``d0``, ``d1``, …), those are
   the coordinates, and other numbers are not.
3. Values say it: a column of whole numbers that are all different is a key, if they only rise or only fall, or if the
   other columns hold fractions. This needs at least `KEY_ROWS` rows, and only a minority of columns can be keys.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from twotower.diagnosis.table import ID_NAMES, LABEL_NAMES, POPULARITY_NAMES, TITLE_NAMES, Account

KEY_ROWS = 8
"""With fewer rows, chance alone makes a column rise often enough to mislead."""
LONG = 16
"""Digits of a whole number from which on floats may lose some: it is an id, and no coordinate."""
_KEY = re.compile(r"(^|[_\s.\-])(id|ids|key|idx|index|uid|uuid|guid|row|rowid)$|[a-z0-9]I[dD]$", re.ASCII)
_ROW_NUMBER = re.compile(r"^$|^index$|^unnamed: ?\d+(_level_\d+)?$|^__index_level_\d+__$|^level_\d+$|^row$", re.ASCII)
_NUMBERED = re.compile(r"^(.*?)(\d{1,6})$", re.DOTALL | re.ASCII)


class Roles(NamedTuple):
    """Hold places of the columns whose role the name gives; ``keys`` are those that number or name the rows."""

    id: int | None
    title: int | None
    label: int | None
    popularity: int | None
    keys: tuple[int, ...]

    @property
    def taken(self) -> frozenset[int]:
        """Return the places that hold no coordinate."""
        named = (self.id, self.title, self.label, self.popularity)
        return frozenset((*self.keys, *(place for place in named if place is not None)))


def is_key(name: str) -> bool:
    """Return whether a column of this name numbers or names the rows.

    Examples:
        >>> [is_key(name) for name in ("id", "movieId", "track_key", "Unnamed: 0", "", "d0", "valid")]
        [True, True, True, True, True, False, False]
    """
    plain = name.strip()
    return bool(
        plain.lower() in ID_NAMES
        or _ROW_NUMBER.match(plain.lower())
        or _KEY.search(plain)
        or _KEY.search(plain.lower())
    )


def shown_name(name: str, place: int) -> str:
    """Return the name of a column in a form that fits a sentence."""
    return name.strip() or f"unnamed column {place + 1}"


def roles_of(names: Sequence[str], indexes: Sequence[str] = ()) -> Roles:
    """Return the roles that names give; ``indexes`` are columns that the file itself calls an index."""
    lowered = [name.strip().lower() for name in names]
    keys = [place for place, name in enumerate(names) if is_key(name) or name in indexes]
    by_name = (_first(lowered, ID_NAMES), *(place for place in keys if not _ROW_NUMBER.match(lowered[place])), *keys)
    id_at = next((place for place in by_name if place is not None), None)
    title = _first(lowered, TITLE_NAMES)
    label = _first(lowered, LABEL_NAMES, but=title)
    return Roles(id_at, title, label, _first(lowered, POPULARITY_NAMES), tuple(keys))


def account_of(names: Sequence[str], roles: Roles) -> Account:
    """Start the account with what the names gave."""
    shown = [shown_name(name, place) for place, name in enumerate(names)]
    key, title, label, popularity = (None if place is None else shown[place] for place in roles[:4])
    spare = {shown[place]: "a second key" for place in roles.keys if place != roles.id}
    return Account((), key, title, label, popularity, spare)


def coordinates(
    account: Account, names: Sequence[str], values: NDArray[Any], *, named: bool = True
) -> tuple[Account, NDArray[Any], NDArray[Any] | None]:
    """Keep the coordinates among numeric columns.

    Args:
        account: what is known of the other columns.
        names: of the columns, as a sentence can hold them.
        values: [rows, columns].
        named: whether the file named them; rule 2 is for names of the file.

    Returns:
        The account, completed; the coordinates; and the column of ids, if one was found among the values.
    """
    numbered = _numbered(names) if named else None
    whole = _whole(values)
    keys = _keys(values, whole)
    if numbered is not None:
        keys = [place for place in keys if place not in numbered]
        rest = [place for place in range(len(names)) if place not in numbered]
    else:
        rest = keys
    doubtful = [place for place in whole if place not in rest and values[:, place].min() < values[:, place].max()]
    if doubtful and 4 * len(whole) <= len(names):
        more = f" and {len(doubtful) - 1} more" if len(doubtful) > 1 else ""
        notice = f"{names[doubtful[0]]}{more} holds whole numbers beside fractions, and is read as a coordinate"
        account = replace(account, notices=(*account.notices, notice))
    if not rest:
        return replace(account, vector=tuple(names)), values, None
    kept = [place for place in range(len(names)) if place not in rest]
    left, notices, ids, key = dict(account.left_out), account.notices, None, account.id
    if keys and key is None:
        key, ids = names[keys[0]], values[:, keys[0]]
        notices = (*notices, f"{key} holds whole numbers that are all different, so it was taken for the id")
    for place in rest:
        if names[place] != key:
            what = "a second key" if place in keys else f"not one of {names[kept[0]]} to {names[kept[-1]]}"
            left[names[place]] = what
    done = replace(account, vector=tuple(names[place] for place in kept), id=key, left_out=left, notices=notices)
    return done, np.ascontiguousarray(values[:, kept]), ids


def with_long_key(account: Account, name: str) -> tuple[Account, str]:
    """Take a column of whole numbers that are too long for coordinates for the id; return the account and its name."""
    notice = f"{name} holds whole numbers of {LONG} digits and more, so it was taken for the id"
    left = {other: why for other, why in account.left_out.items() if other != name}
    return replace(account, id=name, left_out=left, notices=(*account.notices, notice)), name


def without_keys(account: Account, values: Any) -> tuple[Account, Any, list[str] | None]:
    """Keep the coordinates of an array without column names: `coordinates` by rule 3 alone.

    Args:
        account: what is known already; its ``vector`` stays where every column is a coordinate.
        values: an array or a tensor, of numbers or not; what is no matrix comes back as it is.

    Returns:
        The account, the values (the same object where nothing is left out), and the ids, if a column holds them.
    """
    matrix = values if isinstance(values, np.ndarray) else np.asarray(values.float())
    if matrix.ndim != 2 or matrix.dtype.kind not in "fiu":
        return account, values, None
    names = [f"column {place + 1}" for place in range(matrix.shape[1])]
    told, kept, ids = coordinates(account, names, matrix, named=False)
    if kept is matrix:
        return account, values, None
    return told, kept, None if ids is None else [str(int(value)) for value in ids]


def _numbered(names: Sequence[str]) -> frozenset[int] | None:
    """Places of the columns that count up from 0 or 1 behind one word, if they are most of all."""
    found: dict[str, list[tuple[int, int]]] = {}
    for place, name in enumerate(names):
        if match := _NUMBERED.match(name):
            found.setdefault(match[1], []).append((int(match[2]), place))
    runs = [
        [place for _, place in run]
        for run in found.values()
        if len(run) >= 2 and [number for number, _ in sorted(run)] == [*range(run[0][0], run[0][0] + len(run))]
        if min(run)[0] in (0, 1)
    ]
    return frozenset(runs[0]) if len(runs) == 1 and 2 * len(runs[0]) > len(names) else None


def _whole(values: NDArray[Any]) -> list[int]:
    """Places of columns of whole numbers, where there are enough rows to tell."""
    rows, width = values.shape
    return [] if rows < KEY_ROWS or width < 3 else [place for place in range(width) if _is_whole(values[:, place])]


def _keys(values: NDArray[Any], whole: list[int]) -> list[int]:
    """Places of columns, of those of whole numbers, that are keys by rule 3."""
    rows, width = values.shape
    fractions = 2 * (width - len(whole)) > width
    keys = []
    for place in whole:
        column = values[:, place].astype(np.float64)  # differences of numbers without a sign would wrap
        steps = np.diff(column)
        one_way = bool((steps > 0).all() or (steps < 0).all())
        if one_way or (fractions and len(np.unique(column)) == rows and column.min() >= 0):
            keys.append(place)
    return keys if 2 * len(keys) < width else []


def _is_whole(column: NDArray[Any]) -> bool:
    # the first rows decide nearly always, so that a wide file of fractions is not read twice
    return all(bool(np.isfinite(part).all() and (part == np.rint(part)).all()) for part in (column[:KEY_ROWS], column))


def _first(lowered: Sequence[str], wanted: tuple[str, ...], but: int | None = None) -> int | None:
    return next(
        (lowered.index(name) for name in wanted if name in lowered and lowered.index(name) != but),
        None,
    )
