"""Manifest of a bundle: its format, the hash of every file, and the libraries that wrote it."""

from __future__ import annotations

import logging
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

from twotower.core.errors import InputError
from twotower.core.files import read_json
from twotower.core.manifest import check_signed, write_signed
from twotower.core.version import __version__

FORMAT = 2
"""2: histories hold events of whatever label, and their labels; 1: positives alone."""

log = logging.getLogger(__name__)


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write ``manifest`` with the hash of every file of ``folder`` and, last, the hash of the manifest itself."""
    write_signed(folder, {"kind": "bundle", "format": FORMAT, **manifest})


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a bundle that this version can read.

    Raises:
        InputError: if ``folder`` is not a bundle, or one of a newer format.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        problem = "not a bundle (no manifest.json)" if folder.is_dir() else "no such bundle"
        raise InputError(f"{folder}: {problem}; 'twotower train' writes one")
    manifest = read_json(path)
    kind = manifest.get("kind") if isinstance(manifest, dict) else None
    if kind == "prepared-data":
        raise InputError(
            f"{folder}: prepared data, not a bundle; train on it: twotower train --data {folder} --to BUNDLE"
        )
    if kind != "bundle" or not isinstance(manifest.get("format"), int):
        raise InputError(f"{folder}: its manifest.json is not that of a bundle; 'twotower train' writes one")
    if manifest["format"] > FORMAT:
        raise InputError(f"{folder}: format {manifest['format']}, this version reads up to {FORMAT}; upgrade twotower")
    return manifest


def verify_files(folder: Path, manifest: dict[str, Any]) -> None:
    """Compare every byte of ``folder`` with its manifest, and the manifest with itself.

    Raises:
        InputError: if a file was changed, is missing or was added; names the first.
    """
    check_signed(folder, manifest, "bundle", "take a fresh copy or train again")


def versions() -> dict[str, str]:
    """Return the versions of libraries that a bundle stores."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "twotower": __version__,
    }


def note_versions(folder: Path, written: dict[str, str]) -> None:
    """Log a warning for each library whose major version is not the one that wrote the bundle."""
    for name, now in versions().items():
        then = written.get(name, now)
        if then.split(".")[0] != now.split(".")[0]:
            log.warning("%s: written with %s %s, read with %s: scores may differ a little", folder, name, then, now)
