"""Features of users and items that are read from frames: kinds guessed, given, or both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from twotower.core.errors import InputError, closest, shown, unknown_name
from twotower.core.schema import KINDS
from twotower.data.frame_guesses import guess_kind
from twotower.data.frame_notices import Notices
from twotower.data.frame_reader import Frame

Given = Mapping[str, Any] | Sequence[str] | None
"""What a caller says of features: kinds by column, the columns to use, or None."""


@dataclass(frozen=True)
class Table:
    """Hold a frame of users or items that DuckDB can read."""

    frame: Frame
    source: str
    """SQL of it."""
    id: str
    types: dict[str, str]
    title: str = ""
    """Column of titles; that it may make no feature goes without saying."""


def choose_features(
    connection: Any, tables: Mapping[str, Table], given: Given, notices: Notices
) -> dict[str, dict[str, Any]]:
    """Choose the sections [users.features] and [items.features] of a spec, by table.

    Args:
        connection: to DuckDB.
        tables: by ``users`` and ``items``; either may be missing.
        given: a mapping of columns to kinds (or to the keys of a feature in a spec; None leaves the column out), beside
            which the other columns are guessed; a list of the only columns to use; None: all columns are guessed.
        notices: hear each guess.

    Raises:
        InputError: if a given column is in no table, or a kind is unknown.
    """
    if isinstance(given, str):
        raise InputError(f"features is the text '{given}'; give a list of columns, or kinds by column")
    wanted = None if given is None or isinstance(given, Mapping) else list(given)
    settled: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {}
    _check(tables, [*settled.items(), *((name, {}) for name in wanted or ())])
    chosen: dict[str, dict[str, Any]] = {}
    for what, table in tables.items():
        columns = [name for name in table.types if name != table.id and name not in settled]
        if wanted is not None:
            columns = [name for name in wanted if name in table.types and name != table.id]
        own = {
            name: {"kind": value} if isinstance(value, str) else dict(value)
            for name, value in settled.items()
            if value is not None and set(_columns(name, value)) <= table.types.keys()
        }
        chosen[what] = _guessed(connection, table, columns, wanted is not None, notices) | own
    return chosen


def _columns(name: str, value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return list(value.get("columns", ())) or [value.get("column", name)]
    return [name]


def _check(tables: Mapping[str, Table], given: Sequence[tuple[str, Any]]) -> None:
    known = [name for table in tables.values() for name in table.types]
    for name, value in given:
        if not tables:
            raise InputError("features are columns of users or items; give items=... or users=... as frames")
        if not (value is None or isinstance(value, str | Mapping)):
            raise InputError(f"features: '{name}' has {shown(value)}; give a kind, one of {', '.join(KINDS)}")
        kind = value.get("kind", KINDS[0]) if isinstance(value, Mapping) else value
        if kind is not None and kind not in KINDS:
            raise unknown_name("kind", str(kind), KINDS, f"features: '{name}'")
        if not any(set(_columns(name, value)) <= table.types.keys() for table in tables.values()):
            missing = next((column for column in _columns(name, value) if column not in known), name)
            raise InputError(f"features: no column '{missing}' in {' or '.join(tables)}; {closest(missing, known)}")


def _guessed(
    connection: Any, table: Table, columns: Sequence[str], all_wanted: bool, notices: Notices
) -> dict[str, dict[str, Any]]:
    what, found = table.frame.what, dict[str, dict[str, Any]]()
    reasons, left_out = [], []
    for name in columns:
        kind, reason = guess_kind(connection, table.source, name, table.types[name])
        if name.startswith(".") or set(name) & set("/\\\0"):
            kind, reason = "", "has a slash or a leading dot; rename it"
        if kind:
            found[name] = {"kind": kind}
            reasons.append(f"{name} is {kind} ({reason})")
        elif all_wanted:
            raise InputError(f"{what}: feature '{name}' {reason}; name its kind: features={{'{name}': 'categorical'}}")
        elif name != table.title:
            left_out.append(f"{name} {reason}")
    if reasons:
        notices.tell(f"features of {what}, kinds guessed: {'; '.join(reasons)}")
    if left_out:
        notices.tell(f"columns of {what} that are no feature: {'; '.join(left_out)}", doubtful=True)
    return found
