"""Prepared data set: the folder of arrays on disk, and the same as tensors on the training device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from twotower.core.records import FIRST_KNOWN, Features, Items, Users
from twotower.core.schema import Schema
from twotower.data.folder import read_folder
from twotower.data.log import Log

if TYPE_CHECKING:
    from twotower.data.prepare.spec import Spec


LOOKED_UP = 32
"""Bytes an event that training adds to a log: its user and where its history ends, its pair and item as a positive."""


def moved(part: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device: from main memory to a GPU by way of page-locked memory, without waiting for it."""
    if part.device == device:
        return part
    if device.type != "cuda" or part.device.type != "cpu":
        return part.to(device)
    return part.pin_memory().to(device, non_blocking=True)


@dataclass(frozen=True)
class Dataset:
    """Hold log, features and schema as tensors on one device, or, `near` it, log and user features in main memory.

    Feature tensors have a row for every id, also for padding (0) and unknown (1). ``folder`` holds the vocabulary
    Parquet files; None for a data set made in memory.
    """

    schema: Schema
    log: Log
    user_features: Features
    item_features: Features
    manifest: dict[str, Any]
    folder: Path | None = None
    keeper: object | None = field(default=None, compare=False)
    """Holds a temporary ``folder``, which is removed with the last data set that has it; None for a lasting one."""
    place: torch.device | None = None
    """Where batches go when the log lies elsewhere, see `near`; None: where the log is."""

    def __repr__(self) -> str:
        return f"Dataset({self.name}: {', '.join(f'{count:,} {what}' for what, count in self._counts().items())})"

    def _repr_html_(self) -> str:
        """A small table for notebooks: counts, and the features of both sides."""
        rows = {what: f"{count:,}" for what, count in self._counts().items()}
        for side in ("user", "item"):
            features = self.schema.user_features if side == "user" else self.schema.item_features
            rows[f"{side} features"] = ", ".join(f"{item.name} ({item.kind})" for item in features) or "none"
        cells = "".join(f"<tr><th>{what}</th><td>{escape(text)}</td></tr>" for what, text in rows.items())
        return f"<table><caption>{escape(self.name)}</caption>{cells}</table>"

    def _counts(self) -> dict[str, int]:
        return {
            "users": self.schema.num_users - FIRST_KNOWN,
            "items": self.schema.num_items - FIRST_KNOWN,
            "events": len(self.log.items),
        }

    @property
    def name(self) -> str:
        """Return the name that the spec gave it."""
        return str(self.manifest.get("name", "data"))

    @property
    def device(self) -> torch.device:
        """Return the device that it works for: that of its tensors, or the one that it is `near`."""
        return self.place or self.log.items.device

    @property
    def is_near(self) -> bool:
        """Return whether log and user features lie in main memory while another device computes."""
        return self.log.items.device != self.device

    @property
    def is_ordered(self) -> bool:
        """Return whether a user's events have an order; else they are a set, in an order that was drawn."""
        return bool(self.manifest.get("ordered", True))

    def items(self, ids: Tensor) -> Items:
        """Return items with their features: ``ids`` int64 [rows]."""
        ids = moved(ids, self.device)
        return Items(ids, {name: column[ids] for name, column in self.item_features.items()})

    def known_items(self) -> Tensor:
        """Return the rows of all known items, ascending: int64 [items]."""
        return torch.arange(FIRST_KNOWN, self.schema.num_items, device=self.device)

    def all_items(self) -> Items:
        """Return every item row, padding and unknown too, so that row number = id."""
        return self.items(torch.arange(self.schema.num_items, device=self.device))

    def users(self, ids: Tensor, history: Tensor, history_times: Tensor | None = None) -> Users:
        """Return users with their features: ``ids`` int64 [rows], ``history`` int64 [rows, length]."""
        at = ids.to(self.log.items.device)
        features = {name: moved(column[at], self.device) for name, column in self.user_features.items()}
        times = None if history_times is None else moved(history_times, self.device)
        return Users(moved(ids, self.device), features, moved(history, self.device), times)

    def with_log(self, log: Log) -> Dataset:
        """Return the same users and items with another log."""
        return replace(self, log=log)

    def to(self, device: torch.device | str) -> Dataset:
        """Return the data set on another device."""
        return replace(
            self,
            log=self.log.to(device),
            user_features={name: column.to(device) for name, column in self.user_features.items()},
            item_features={name: column.to(device) for name, column in self.item_features.items()},
            place=None,
        )

    def near(self, device: torch.device | str) -> Dataset:
        """Return the data set with item features on the device, and log and user features in main memory.

        Users and items that are cut from it are copied to the device, which then needs room for no log.
        """
        held, on_device = self.to("cpu"), torch.device(device)
        if on_device.type == "cuda" and on_device.index is None:
            on_device = torch.device("cuda", torch.cuda.current_device())
        columns = {name: column.to(on_device) for name, column in self.item_features.items()}
        return replace(held, item_features=columns, place=on_device)

    @property
    def bytes_of_log(self) -> int:
        """Return how many bytes log and user features take on a device, with what training looks up in them."""
        parts = [part for part in (*self.log, *self.user_features.values()) if part is not None]
        return sum(part.numel() * part.element_size() for part in parts) + LOOKED_UP * self.log.num_events

    @staticmethod
    def load(folder: Path | str, *, device: torch.device | str = "cpu", verify: bool = True) -> Dataset:
        """Read a prepared folder; ``verify`` compares every file's hash with the manifest first.

        Raises:
            InputError: if the folder is not a prepared data set, is of a newer format, has a changed, missing or added
                file, or arrays that are not what their schema says.
        """
        folder = Path(folder)
        return Dataset(*read_folder(folder, torch.device(device), verify=verify), folder)

    @staticmethod
    def prepare(
        spec: Spec | Mapping[str, Any] | Path | str,
        to: Path | str | None = None,
        *,
        device: torch.device | str = "cpu",
        memory_limit: str = "1GB",
        progress: Callable[[str], None] | None = None,
    ) -> Dataset:
        """Prepare raw files and load the result.

        Args:
            spec: a `Spec`, the same as a dict (paths relative to the working directory), or the path of its TOML.
            to: the folder to write. None: a temporary one, which is removed when the last data set made from this one
                is no longer used, or when Python ends.
            device: where the tensors are put.
            memory_limit: of DuckDB, as 500MB or 2GB; beyond it, work spills to disk.
            progress: is told in a few words what is being done.

        Raises:
            InputError: if the spec or the data cannot be used; says what, where and what to do.
        """
        from twotower.data.prepare.prepare import prepare
        from twotower.data.prepare.spec import Spec
        from twotower.data.temporary import target_folder

        if isinstance(spec, Mapping):
            spec = Spec.from_dict(dict(spec))
        with target_folder(to) as (folder, keeper):
            prepare(spec, folder, memory_limit=memory_limit, progress=progress)
            return replace(Dataset.load(folder, device=device, verify=False), keeper=keeper)

    @staticmethod
    def from_frames(
        events: Any,
        *,
        items: Any = None,
        users: Any = None,
        user: str | None = None,
        item: str | None = None,
        time: str | None = None,
        unit: str | None = None,
        value: str | None = None,
        label: str | Mapping[str, Any] | None = None,
        features: Mapping[str, Any] | Sequence[str] | None = None,
        title: str | None = None,
        name: str = "frame",
        to: Path | str | None = None,
        split: str | Mapping[str, Any] = "leave-one-out",
        duplicates: str = "keep",
        min_user_events: int = 1,
        min_item_events: int = 1,
        max_bad_share: float = 0.01,
        device: torch.device | str = "cpu",
        memory_limit: str = "1GB",
    ) -> Dataset:
        """Prepare data frames: pandas, Polars, pyarrow, DuckDB relations, or dicts of columns.

        The frames are prepared as files are, with a spec made from the arguments. What was guessed is logged by
        ``twotower.data.frames`` and listed in ``manifest["treatments"]``.

        Args:
            events: the log, one row an event.
            items: one row an item: id, title, features. Items without an event are kept as cold items.
            users: one row a user: id, features.
            user: column of the user's id in ``events``; None: the only column with a usual name (user, user_id, uid…).
            item: column of the item's id; None: likewise (item, item_id, movie_id…).
            time: column that orders a user's events; None: likewise (time, timestamp, date…), or none: they are a
                set, in an order that is drawn.
            unit: of numbers in ``time``: s, ms, us, ns, iso (dates as text), order (a place in an order, no clock;
                without ``time``: the order of the frame is real);
                None: guessed by their size. Datetimes need none; those without a zone are taken as UTC.
            value: column of a rating.
            label: column of 0 and 1, both kept; or a rule as in [label] of a spec, as ``{"at_least": 4}`` on ``value``.
            features: None: kinds of all columns of ``items`` and ``users`` are guessed; a dict: kinds by column, None
                to leave one out, others guessed; a list: only these columns.
            title: column of ``items`` shown with recommendations; None: the only one called title or name.
            name: of the data set.
            to: the folder to write. None: a temporary one, which is removed when the last data set made from this one
                is no longer used, or when Python ends.
            split: kind of split, or a dict of kind and options: see `twotower.data.splitters`.
            duplicates: keep, first or last of events that repeat a user's earlier item.
            min_user_events: users with fewer are dropped.
            min_item_events: items with fewer are dropped.
            max_bad_share: share of rows without id or time beyond which the frame is refused; up to it, they are left
                out with a notice.
            device: where the tensors are put.
            memory_limit: of DuckDB, as 500MB or 2GB; beyond it, work spills to disk.

        Raises:
            InputError: if the frames cannot be used; says what, where and what to do.
        """
        from twotower.data.frames import prepare_frames
        from twotower.data.temporary import target_folder

        with target_folder(to) as (folder, keeper):
            prepare_frames(
                folder,
                events,
                items=items,
                users=users,
                columns={
                    role: None if column is None else str(column)  # a header of pandas may be a number
                    for role, column in (
                        ("user", user),
                        ("item", item),
                        ("time", time),
                        ("value", value),
                        ("title", title),
                    )
                },
                unit=unit,
                label=label,
                features=features,
                name=name,
                split=split,
                treatment={
                    "duplicates": duplicates,
                    "min_user_events": min_user_events,
                    "min_item_events": min_item_events,
                    "max_bad_share": max_bad_share,
                },
                memory_limit=memory_limit,
            )
            return replace(Dataset.load(folder, device=device, verify=False), keeper=keeper)
