"""One setting of a run by its name, as a keyword of ``twotower.train``: found among sections, model and sources."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from twotower.core.errors import InputError, unknown_name
from twotower.core.registry import Registry
from twotower.data.splitters import SPLITTERS
from twotower.experiment.run import Run
from twotower.experiment.sources import source_parameters
from twotower.index.registry import INDEXES, index_parameters
from twotower.models.registry import model_parameters
from twotower.scorers.registry import SCORERS
from twotower.towers.registry import TOWERS
from twotower.training.sources import OLD_OPTIONS, set_in_source

PARTS: dict[tuple[str, str], Registry[Any]] = {
    ("model", "score"): SCORERS,
    ("model", "tower"): TOWERS,
    ("data", "split"): SPLITTERS,
    ("index", "kind"): INDEXES,
}
"""Settings that name a part: section and key. Their value may be the registered class or function itself."""

SOURCES = "sources."
"""Before the name of a source of negatives and its key, within the section [sampling]."""


def with_setting(run: Run, key: str, value: Any) -> Run:
    """Return the run with one key changed.

    Args:
        run: as it is.
        key: ``epochs``, where one section, the model or a source of negatives has it; ``section.key``; or
            ``sampling.sources.NAME.key``.
        value: plain, or for `PARTS` the registered class or function.

    Raises:
        InputError: if nothing has that key (the closest is named), several parts have it, or the value does not suit.
    """
    sections = {part.name: {item.name for item in fields(getattr(run, part.name))} for part in fields(run)}
    sections["model"] = set(model_parameters(run.model.name))
    sections["sampling"] |= OLD_OPTIONS.keys()
    sections["index"] = {"kind", *index_parameters(run.index.kind)}
    section, dot, name = ("index", ".", "kind") if key == "index" else key.partition(".")
    places = [(section, name)] if dot else [(part, key) for part, names in sections.items() if key in names]
    own = [] if dot else [("sampling", f"{SOURCES}{source}.{key}") for source in _sources_with(run, key)]
    if own:
        places = [*(place for place in places if place[0] != "sampling"), *own]
    if not places:
        raise unknown_name("setting", key, {name for names in sections.values() for name in names})
    if len(places) > 1:
        shown = " and ".join(f"{part}.{one}" for part, one in places)
        raise InputError(f"'{key}' is a key of {shown}; say which: **{{'{'.'.join(places[0])}': {value!r}}}")
    section, name = places[0]
    if section not in sections:
        raise unknown_name("section", section, sections)
    if (section, name) in PARTS and not isinstance(value, str):
        value = _name_of_part(PARTS[section, name], value)
    values, plain = run.to_dict(), list(value) if isinstance(value, tuple) else value
    if section == "sampling" and name.startswith(SOURCES):
        set_in_source(values[section], name.removeprefix(SOURCES), plain, "train")
    else:
        values[section][name] = plain
    return Run.from_dict(values, "train", override=True)


def _sources_with(run: Run, key: str) -> list[str]:
    """The run's sources that take a setting of that key; none where one of them reads that key of [sampling]."""
    names = [source.name for source in run.sampling.sources]
    if key in OLD_OPTIONS and not set(names).isdisjoint(OLD_OPTIONS[key].sources):
        return []
    return [name for name in names if key in (source_parameters(name) or {})]


def _name_of_part(registry: Registry[Any], part: Any) -> str:
    """The name of a class or function; an object is refused, since a bundle makes the part anew from its name."""
    if not isinstance(part, type) and not hasattr(part, "__qualname__"):
        kind = type(part).__name__
        raise InputError(f"{registry.what} is an object of type {kind}: hand over the registered name or class")
    return registry.name_of(part)
