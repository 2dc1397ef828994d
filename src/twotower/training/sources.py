"""Describe the sources of negatives of a run: a name and settings each, as a list of tables in the run file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from twotower.core.errors import InputError, shown

log = logging.getLogger(__name__)
FORM = "write names, such as sources = ['in_batch'], or a table each: [[sampling.sources]] and name = 'in_batch' below"


@dataclass(frozen=True)
class NegativeSource:
    """Name one source of negatives, with its own settings."""

    name: str
    """Name from `twotower.SAMPLERS`."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Keywords of the source; in TOML they stand beside ``name``."""

    def __post_init__(self) -> None:
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in self.settings.items()}
        object.__setattr__(self, "settings", plain)


class _Old(NamedTuple):
    sources: tuple[str, ...]
    key: str
    default: Any


OLD_OPTIONS = {
    "number": _Old(("uniform", "popularity", "mixed", "memory_bank"), "number", 256),
    "in_batch_number": _Old(("in_batch", "mixed", "memory_bank"), "rows", 0),
    "bank_start": _Old(("memory_bank",), "start", 0),
    "bank_drift": _Old(("memory_bank",), "drift", 0.0),
    "bank_rescale": _Old(("memory_bank",), "rescale", False),
    "mine_number": _Old(("index_mined",), "number", 8),
    "mine_ranks": _Old(("index_mined",), "ranks", [10, 99]),
    "mine_every": _Old(("index_mined",), "every", 1000),
    "mine_start": _Old(("index_mined",), "start", 0),
}
"""Keys of [sampling] before each source had its own settings: which sources read them, and under which key now."""


def named_sources(value: Any, where: str) -> tuple[NegativeSource, ...]:
    """Read ``sampling.sources``: names, tables, or both.

    Raises:
        InputError: names the table, counted from 1, that has no name, or the source that is named twice.
    """
    if not isinstance(value, list | tuple):
        raise InputError(f"{where}: sampling.sources must be a list, got {shown(value)}; {FORM}")
    return unrepeated(tuple(_source(part, at, where) for at, part in enumerate(value, 1)), f"{where}: ")


def unrepeated(sources: tuple[NegativeSource, ...], where: str = "") -> tuple[NegativeSource, ...]:
    """Return the sources as they are.

    Raises:
        InputError: if there are none, or one is named twice.
    """
    if not sources:
        raise InputError(f"{where}sampling.sources is empty; name at least one, such as 'in_batch'")
    names = [source.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{where}sampling.sources names {shown(name)} twice; raise its number instead")
    return sources


def plain_sources(sources: Sequence[NegativeSource]) -> list[Any]:
    """Return the sources as TOML holds them: names where no source has settings, else one table each."""
    if not any(source.settings for source in sources):
        return [source.name for source in sources]
    return [{"name": source.name, **source.settings} for source in sources]


def read_old_options(values: dict[str, Any], where: str, *, override: bool = False) -> dict[str, Any]:
    """Return a section [sampling] with `OLD_OPTIONS` moved into the sources that read them.

    Args:
        values: the section; its ``sources`` may be names, tables or `NegativeSource`.
        where: for messages.
        override: an old option takes the place of a source's own setting; otherwise giving both is an error.

    Raises:
        InputError: for an option of the wrong kind, or one that a source's own table sets too.
    """
    rest = {key: value for key, value in values.items() if key not in OLD_OPTIONS}
    if len(rest) == len(values):
        return values
    sources = named_sources(rest.get("sources", ["in_batch"]), where)
    for key in OLD_OPTIONS.keys() & values.keys():
        old, value = OLD_OPTIONS[key], _plain(values[key])
        _check_kind(key, value, old.default, where)
        readers = [source for source in sources if source.name in old.sources]
        for source in readers:
            place = f"sampling.sources.{source.name}.{old.key}"
            if old.key in source.settings and not override:
                raise InputError(f"{where}: sampling.{key} and {place} say the same; keep {place}")
            if old.key in source.settings or value != old.default:
                source.settings[old.key] = value
        if not readers and value != old.default:
            log.warning("%s: sampling.%s is not read: it belongs to %s", where, key, " and ".join(old.sources))
    return {**rest, "sources": sources}


def set_in_source(values: dict[str, Any], path: str, value: Any, where: str) -> None:
    """Change one setting of a source in a section [sampling], such as ``memory_bank.start``.

    Raises:
        InputError: if no source has that name.
    """
    name, _, key = path.partition(".")
    sources = named_sources(values["sources"], where)
    found = next((source for source in sources if source.name == name), None)
    if found is None or not key:
        names = ", ".join(source.name for source in sources)
        raise InputError(f"{where}: no source {shown(name)} in sampling.sources ({names}); name it there first")
    found.settings[key] = value
    values["sources"] = sources


def kept_settings(value: Any, before: Any, where: str) -> Any:
    """Return new sources; one that is given by its name alone keeps the settings that it had before."""
    had = {source.name: source for source in named_sources(before, where)}
    return [had.get(part, part) if isinstance(part, str) else part for part in value] if _is_list(value) else value


def _source(part: Any, at: int, where: str) -> NegativeSource:
    if isinstance(part, NegativeSource):
        return NegativeSource(part.name, dict(part.settings))
    name = part.get("name") if isinstance(part, dict) else part
    if not isinstance(name, str):
        got = "no name" if isinstance(part, dict) and name is None else shown(name)
        raise InputError(f"{where}: [[sampling.sources]], table {at}: got {got}; {FORM}")
    return NegativeSource(
        name, {key: value for key, value in part.items() if key != "name"} if part is not name else {}
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _check_kind(key: str, value: Any, default: Any, where: str) -> None:
    wanted = wrong_kind(value, default)
    if wanted:
        raise InputError(f"{where}: sampling.{key} must be {wanted}, got {shown(value)}")


def wrong_kind(value: Any, default: Any) -> str:
    """Return what is wanted where a value is of another kind than the default, in words; else an empty text."""
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else "true or false"
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, int):
        return "" if number and isinstance(value, int) and 0 <= value < 2**63 else "a whole number of at least 0"
    if isinstance(default, float):
        return "" if number and 0 <= value < float("inf") else "a number of at least 0"
    if isinstance(default, str):
        return "" if isinstance(value, str) else "a text"
    if isinstance(default, list | tuple) and default:
        same = _is_list(value) and not any(wrong_kind(part, default[0]) for part in value)
        return "" if same else f"a list such as {list(default)}"
    return ""
