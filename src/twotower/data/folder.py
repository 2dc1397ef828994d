"""Folder of a prepared data set: its format, and what completes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twotower.core.files import hash_folder, write_json
from twotower.core.schema import Schema

FORMAT = 1


def finish_folder(folder: Path, schema: Schema, manifest: dict[str, Any]) -> None:
    """Write schema and manifest into a folder whose arrays are in place; the manifest gains hashes and the format."""
    schema.save(folder / "schema.json")
    write_json(
        folder / "manifest.json",
        {"kind": "prepared-data", "format": FORMAT, **manifest, "hashes": hash_folder(folder)},
    )
