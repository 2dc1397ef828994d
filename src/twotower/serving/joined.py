"""A bundle's data and newer ones as one data set: known users and items keep their rows, events come in time order."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import torch
from torch import Tensor

from twotower.core.errors import InputError, shown
from twotower.core.records import FIRST_KNOWN, Features
from twotower.core.schema import Feature, Schema, Side
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.data.prepare.encode import missing
from twotower.data.prepare.vocabulary import feature_path
from twotower.data.temporary import TemporaryFolder
from twotower.serving.bundle import Bundle
from twotower.serving.joined_ids import Numbered, check_same_texts, join_vocabularies, renumbered

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Joined:
    """Hold a bundle's data with newer ones."""

    dataset: Dataset
    """Users, items and values of features of the bundle in their rows, then the new ones."""
    fresh: Tensor
    """Whether each event came with the newer data: bool [events]."""
    new_users: int
    new_items: int
    repeats: int
    """Events of the newer data that the bundle has already: they count once."""
    known: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Of the bundle's users, items and events as many as the newer data hold, and how many it has."""

    @property
    def latest_stored(self) -> int:
        """Return the time of the bundle's latest event."""
        times = self.dataset.log.times
        assert times is not None
        stored = times[~self.fresh]
        return int(stored.max()) if len(stored) else -(2**62)


def join_data(bundle: Bundle, data: Dataset) -> Joined:
    """Join newer data, prepared by themselves, to those that a bundle keeps.

    Users and items are the same where their ids are. What the newer data say of the features of a known user or item
    takes the place of what was known. Users, items and features that they do not have stay as they were. The folder of
    the result, with its vocabulary, is removed with it.

    Raises:
        InputError: if the newer data have no ids, are of another kind, or know none of the bundle's items.
    """
    what = str(data.folder or data.name)
    if data.folder is None or not (data.folder / "vocabulary").is_dir():
        raise InputError(f"{what}: has no ids from outside, so its items cannot be found in the bundle; prepare tables")
    if not (bundle.schema.has_times and data.schema.has_times):
        which = what if bundle.schema.has_times else str(bundle.folder)
        raise InputError(
            f"{which}: its events have no times, so nothing says which came later; prepare both logs with a time "
            "column, or train again on all events"
        )
    data, keeper = data.to(bundle.device), TemporaryFolder()
    target = keeper.path / "vocabulary"
    shutil.copytree(bundle.folder / "vocabulary", target)
    sides: dict[Side, tuple[Numbered, tuple[Feature, ...], Features]] = {}
    with duckdb.connect() as connection:
        for side in ("user", "item"):
            sides[side] = _side(connection, bundle, data, side, target, what)
    users, items = sides["user"], sides["item"]
    schema = Schema(users[0].size, items[0].size, users[1], items[1], True)
    joined, fresh, repeats = join_logs(
        bundle.dataset.log, _moved(data.log, users[0].rows, items[0].rows), schema.num_users
    )
    counts = {"users": schema.num_users - 2, "items": schema.num_items - 2, "events": joined.num_events}
    manifest = {key: value for key, value in bundle.dataset.manifest.items() if key not in ("hashes", "digest")}
    manifest |= {"counts": (manifest.get("counts") or {}) | counts}
    dataset = Dataset(schema, joined, users[2], items[2], manifest, keeper.path, keeper)
    if repeats:
        log.warning("%s: %d of its %d events are in the bundle already and count once", what, repeats, len(data.log[1]))
    known = {
        "users": (users[0].known, bundle.schema.num_users - FIRST_KNOWN),
        "items": (items[0].known, bundle.schema.num_items - FIRST_KNOWN),
        "events": (repeats, bundle.dataset.log.num_events),
    }
    new_users, new_items = (schema.num_users - bundle.schema.num_users, schema.num_items - bundle.schema.num_items)
    return Joined(dataset, fresh, new_users, new_items, repeats, known)


def join_logs(stored: Log, newer: Log, num_users: int) -> tuple[Log, Tensor, int]:
    """Return the events of both logs in one, which of them came with ``newer``, and how many were left out.

    Left out of ``newer`` are events of the same user, item and time as a stored one. Where only one log has labels, the
    events of the other count as positives.

    Args:
        stored: of users 0 to any.
        newer: of users 0 to any; its rows are those of ``stored``.
        num_users: rows of the result.

    Examples:
        >>> old = Log(torch.tensor([0, 0, 0, 1]), torch.tensor([5]), torch.tensor([10]))
        >>> new = Log(torch.tensor([0, 0, 0, 2]), torch.tensor([5, 6]), torch.tensor([10, 9]))
        >>> both, fresh, repeats = join_logs(old, new, 3)
        >>> both.items.tolist(), fresh.tolist(), repeats
        ([6, 5], [True, False], 1)
    """
    assert stored.times is not None
    assert newer.times is not None
    device = stored.items.device
    users = torch.cat([stored.users(), newer.users()]).cpu().numpy()
    items = torch.cat([stored.items, newer.items]).cpu().numpy()
    times = torch.cat([stored.times, newer.times]).cpu().numpy()
    labels = None
    if stored.labels is not None or newer.labels is not None:
        both = [
            torch.ones(part.num_events, device=device) if part.labels is None else part.labels
            for part in (stored, newer)
        ]
        labels = torch.cat(both)
    came = np.arange(len(items))
    fresh = came >= stored.num_events
    alike = np.lexsort((came, items, times, users))
    begins = np.ones(len(alike), dtype=bool)
    for part in (users, items, times):
        ordered = part[alike]
        begins[1:] &= ordered[1:] == ordered[:-1]
    begins[1:] = ~begins[1:]
    group = np.cumsum(begins) - 1
    known = ~fresh[alike][begins][group] & fresh[alike]
    kept = np.ones(len(items), dtype=bool)
    kept[alike[known]] = False
    sorted_by_time = np.lexsort((came, times, users))
    order = torch.from_numpy(sorted_by_time[kept[sorted_by_time]])
    lengths = np.bincount(users[kept], minlength=num_users)
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]))
    at = order.to(device)
    return (
        Log(
            offsets.to(device),
            torch.cat([stored.items, newer.items])[at],
            torch.cat([stored.times, newer.times])[at],
            None if labels is None else labels[at],
        ),
        torch.from_numpy(fresh)[order].to(device),
        int(known.sum()),
    )


def _moved(newer: Log, users: Tensor, items: Tensor) -> Log:
    """The newer log in the rows of the joined vocabularies."""
    owners = users.to(newer.items.device)[newer.users()]
    order = owners.argsort(stable=True)
    lengths = owners.bincount(minlength=int(users.max()) + 1)
    return Log(
        torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]),
        items.to(newer.items.device)[newer.items][order],
        None if newer.times is None else newer.times[order],
        None if newer.labels is None else newer.labels[order],
    )


def _side(
    connection: Any, bundle: Bundle, data: Dataset, side: Side, target: Path, what: str
) -> tuple[Numbered, tuple[Feature, ...], Features]:
    """Vocabulary, features of the schema and columns of one side."""
    assert data.folder is not None
    name = f"{side}s.parquet"
    mine, theirs = bundle.folder / "vocabulary", data.folder / "vocabulary"
    sizes = [s.num_users if side == "user" else s.num_items for s in (bundle.schema, data.schema)]
    ids = join_vocabularies(
        connection, mine / name, theirs / name, target / name, key="id", size=sizes[0], newer_size=sizes[1]
    )
    if side == "item":
        if not ids.known:
            raise InputError(
                f"{what}: none of its {sizes[1] - 2:,} items is in the bundle {bundle.folder}: these are the ids of "
                "another data set"
            )
        check_same_texts(connection, what, side)
    stored, given = (part.user_features if side == "user" else part.item_features for part in (bundle.dataset, data))
    kinds = {feature.name: feature for feature in data.schema.features(side)}
    if extra := sorted(kinds.keys() - stored.keys()):
        log.warning("%s: %s features that the bundle does not have are left out: %s", what, side, ", ".join(extra))
    features, columns = [], {}
    for feature in bundle.schema.features(side):
        more = torch.from_numpy(missing(feature, ids.size - sizes[0])).to(stored[feature.name])
        column = torch.cat([stored[feature.name], more])
        other = kinds.get(feature.name)
        if other is None:
            log.warning("%s: has no %s feature '%s': it stays as it was, new ones lack it", what, side, feature.name)
        else:
            feature, values = _values(
                connection, feature, other, given[feature.name], side, (mine, theirs, target), what
            )
            told = _told(values)
            rows = ids.rows.to(column.device)
            told[:FIRST_KNOWN] = False
            column[rows[told]] = values[told].to(column.dtype)
        features.append(feature)
        columns[feature.name] = column
    return ids, tuple(features), columns


def _values(
    connection: Any,
    feature: Feature,
    other: Feature,
    column: Tensor,
    side: Side,
    folders: tuple[Path, Path, Path],
    what: str,
) -> tuple[Feature, Tensor]:
    """A feature with the values that both know, and the newer column in the rows of these."""
    if feature.kind != other.kind or (feature.kind == "vector" and feature.size != other.size):
        raise InputError(
            f"{what}: {side} feature {shown(feature.name)} is {other.kind} of {other.size}, in the bundle "
            f"{feature.kind} of {feature.size}; prepare the new data by the spec of the old"
        )
    if not feature.is_discrete:
        return feature, column
    paths = [feature_path(folder, side, feature.name) for folder in folders]
    if not paths[0].is_file():
        raise InputError(f"feature '{feature.name}': the bundle has no table of its values; train again on all data")
    found = join_vocabularies(connection, *paths, key="value", size=feature.size, newer_size=other.size)
    if not found.known and other.size > FIRST_KNOWN:
        log.warning("%s: the bundle has none of the values of %s feature '%s': all are new", what, side, feature.name)
    if lost := int((column[:, feature.width :] > 0).any(dim=1).sum()) if column.ndim > 1 else 0:
        log.warning("%s: feature '%s' keeps the first %d values of %d rows", what, feature.name, feature.width, lost)
    return replace(feature, size=found.size), renumbered(column, found.rows, feature.width)


def _told(values: Tensor) -> Tensor:
    """Which rows of a column have a value."""
    if values.is_floating_point():
        return values.isfinite() if values.ndim == 1 else (values.nan_to_num() != 0).any(dim=1)
    return values > 0 if values.ndim == 1 else (values > 0).any(dim=1)
