"""Prepared data sets of a table: those that are given, or its own, fetched; and without their texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from twotower.core.errors import InputError
from twotower.data.dataset import Dataset
from twotower.data.prepare.prepare import prepare
from twotower.data.prepare.spec import Spec
from twotower.data.sources import SourceUnavailable, get
from twotower.reproduce.study import Table


def given_sets(folders: Sequence[Path]) -> dict[str, Path]:
    """Return prepared folders by the names of their data sets.

    Raises:
        InputError: if a folder is no prepared data set, or two are of one name.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        name = Dataset.load(folder).name
        if name in found:
            raise InputError(f"{found[name]} and {folder}: both are '{name}'; a table takes a data set once")
        found[name] = folder
    return found


def fetched_sets(table: Table, folder: Path, notice: Callable[[str], None]) -> dict[str, Path]:
    """Fetch and prepare the table's own data sets in ``folder``; one that is not to be had gives a notice.

    Raises:
        InputError: if none can be had.
    """
    found = []
    for wanted in table.data:
        name, _, category = wanted.partition(" ")
        raw = folder / wanted.replace(" ", "-").lower()
        prepared = raw.with_name(f"{raw.name}-prepared")
        try:
            if not prepared.is_dir():
                prepare(Spec.from_toml(get(name, raw, category=category or None, notice=notice)), prepared)
            found.append(prepared)
        except (SourceUnavailable, InputError) as error:
            notice(f"{wanted} is left out: {error}; prepare a copy of it and name it with --data")
    if not found:
        raise InputError(f"reproduce {table.name}: none of {', '.join(table.data)} could be had; give --data DIR")
    return given_sets(found)


def without_text(dataset: Dataset) -> Dataset:
    """Return the data set without text features of items."""
    kept = tuple(feature for feature in dataset.schema.item_features if feature.kind != "text")
    return replace(
        dataset,
        schema=replace(dataset.schema, item_features=kept),
        item_features={feature.name: dataset.item_features[feature.name] for feature in kept},
    )
