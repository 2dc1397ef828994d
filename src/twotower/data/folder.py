"""Folder of a prepared data set: its format, and what completes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twotower.core.manifest import check_files, check_signed, write_signed
from twotower.core.schema import Schema

FORMAT = 2
"""2: the manifest holds its own hash, too; 1: those of the other files alone."""


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


_WHAT, _ADVICE = "prepared data set", "prepare it again"
