"""A prepared data set: the folder of arrays on disk, and the same as tensors on the training device."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.files import hash_folder, read_json, write_json
from twotower.core.records import Features, Items, Users
from twotower.core.schema import Schema, Side
from twotower.data.log import Log

FORMAT = 1


@dataclass(frozen=True)
class Dataset:
    """Log, features and schema as tensors on one device.

    Feature tensors have a row for every id, also for padding (0) and unknown (1). ``folder`` holds the vocabulary
    Parquet files; None for a data set made in memory.
    """

    schema: Schema
    log: Log
    user_features: Features
    item_features: Features
    manifest: dict[str, Any]
    folder: Path | None = None

    @property
    def name(self) -> str:
        """What the spec called it."""
        return str(self.manifest.get("name", "data"))

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return self.log.items.device

    def items(self, ids: Tensor) -> Items:
        """Items with their features: ``ids`` int64 [rows]."""
        return Items(ids, {name: column[ids] for name, column in self.item_features.items()})

    def all_items(self) -> Items:
        """Every item row, padding and unknown too, so that row number = id."""
        return self.items(torch.arange(self.schema.num_items, device=self.device))

    def users(self, ids: Tensor, history: Tensor, history_times: Tensor | None = None) -> Users:
        """Users with their features: ``ids`` int64 [rows], ``history`` int64 [rows, length]."""
        return Users(ids, {name: column[ids] for name, column in self.user_features.items()}, history, history_times)

    def with_log(self, log: Log) -> Dataset:
        """The same users and items with another log."""
        return replace(self, log=log)

    def to(self, device: torch.device | str) -> Dataset:
        """The data set on another device."""
        return replace(
            self,
            log=self.log.to(device),
            user_features={name: column.to(device) for name, column in self.user_features.items()},
            item_features={name: column.to(device) for name, column in self.item_features.items()},
        )

    @staticmethod
    def load(folder: Path | str, *, device: torch.device | str = "cpu", verify: bool = True) -> Dataset:
        """Read a prepared folder; ``verify`` compares every file's hash with the manifest first.

        Raises:
            InputError: if the folder is not a prepared data set, of a newer format, or has a changed file.
        """
        folder = Path(folder)
        if not (folder / "manifest.json").is_file():
            raise InputError(
                f"{folder}: not a prepared data set (no manifest.json); make one with 'twotower data prepare'"
            )
        manifest = read_json(folder / "manifest.json")
        if not isinstance(manifest, dict) or manifest.get("kind") != "prepared-data" or "hashes" not in manifest:
            raise InputError(f"{folder}: its manifest is not that of a prepared data set")
        if manifest.get("format") not in range(1, FORMAT + 1):
            raise InputError(
                f"{folder}: format {manifest.get('format')}, this version reads up to {FORMAT}; upgrade twotower"
            )
        if verify:
            found = hash_folder(folder)
            wrong = sorted(name for name, digest in manifest["hashes"].items() if found.get(name) != digest)
            if wrong:
                raise InputError(
                    f"{folder}: {wrong[0]} is missing or was changed since it was prepared; prepare it again"
                )
        schema = Schema.load(folder / "schema.json")

        def column(path: Path, dtype: torch.dtype) -> Tensor:
            return torch.from_numpy(np.load(path, mmap_mode="r").astype(_NUMPY[dtype])).to(device)

        def optional(name: str, dtype: torch.dtype) -> Tensor | None:
            return column(folder / "log" / f"{name}.npy", dtype) if f"log/{name}.npy" in manifest["hashes"] else None

        def features(side: Side) -> Features:
            return {
                feature.name: column(
                    folder / f"{side}s" / f"{feature.name}.npy",
                    torch.int64 if feature.is_discrete else torch.float32,
                )
                for feature in schema.features(side)
            }

        log = Log(
            column(folder / "log" / "offsets.npy", torch.int64),
            column(folder / "log" / "items.npy", torch.int64),
            optional("times", torch.int64),
            optional("labels", torch.float32),
        )
        return Dataset(schema, log, features("user"), features("item"), manifest, folder)


_NUMPY = {torch.int64: np.int64, torch.float32: np.float32}


def finish_folder(folder: Path, schema: Schema, manifest: dict[str, Any]) -> None:
    """Write schema and manifest into a folder whose arrays are in place; the manifest gains hashes and the format."""
    schema.save(folder / "schema.json")
    write_json(
        folder / "manifest.json",
        {"kind": "prepared-data", "format": FORMAT, **manifest, "hashes": hash_folder(folder)},
    )
