"""Folder of a prepared data set: its format, what completes it, and how it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from twotower.core.errors import InputError, shown
from twotower.core.files import read_json
from twotower.core.manifest import check_files, check_signed, write_signed
from twotower.core.records import Features
from twotower.core.schema import Schema, Side
from twotower.data.intact import check_features, check_log, read_array
from twotower.data.log import Log

FORMAT = 2
"""2: the manifest holds its own hash, too; 1: those of the other files alone."""
_WHAT, _ADVICE = "prepared data set", "prepare it again"


class Stored(NamedTuple):
    """Hold what a folder stores, in the order of the fields of a `twotower.data.dataset.Dataset`."""

    schema: Schema
    log: Log
    user_features: Features
    item_features: Features
    manifest: dict[str, Any]


def finish_folder(folder: Path, schema: Schema, manifest: dict[str, Any]) -> None:
    """Write schema and manifest into a folder whose arrays are in place; the manifest gains hashes and the format."""
    schema.save(folder / "schema.json")
    write_signed(folder, {"kind": "prepared-data", "format": FORMAT, **manifest})


def check_folder(folder: Path, manifest: dict[str, Any]) -> None:
    """Compare every byte of a prepared folder with its manifest.

    Raises:
        InputError: if a file was changed, is missing or was added; names the first.
    """
    if manifest["format"] == 1 and "digest" not in manifest:
        check_files(folder, manifest["hashes"], _WHAT, _ADVICE)
    else:
        check_signed(folder, manifest, _WHAT, _ADVICE)


def read_folder(folder: Path, device: torch.device, *, verify: bool) -> Stored:
    """Read a prepared folder onto a device.

    Args:
        folder: of the data set.
        device: where the tensors are put.
        verify: whether every file's hash is compared with the manifest first.

    Raises:
        InputError: if the folder is not a prepared data set, is of a newer format, has a changed, missing or added
            file, or arrays that are not what their schema says.
    """
    if not (folder / "manifest.json").is_file():
        raise InputError(f"{folder}: not a prepared data set (no manifest.json); make one with 'twotower data prepare'")
    manifest = read_json(folder / "manifest.json")
    if (
        not isinstance(manifest, dict)
        or manifest.get("kind") != "prepared-data"
        or not isinstance(manifest.get("hashes"), dict)
    ):
        raise InputError(f"{folder}: its manifest is not that of a prepared data set")
    if manifest.get("format") not in range(1, FORMAT + 1):
        raise InputError(
            f"{folder}: format {shown(manifest.get('format'))}, this version reads up to {FORMAT}; upgrade twotower"
        )
    if verify:
        check_folder(folder, manifest)
    schema = Schema.load(folder / "schema.json")

    def column(path: Path, dtype: torch.dtype) -> Tensor:
        return read_array(path, dtype).to(device)

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
    check_log(log, schema, folder)
    users, items = features("user"), features("item")
    check_features(users, schema, "user", folder)
    check_features(items, schema, "item", folder)
    return Stored(schema, log, users, items, manifest)
