"""A manifest that proves itself: JSON with the hash of every file beside it and, last, the hash of its own text."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from twotower.core.errors import InputError
from twotower.core.files import hash_folder, replacing_file


def write_signed(folder: Path, manifest: dict[str, Any]) -> None:
    """Write ``manifest.json`` with the hash of every file of ``folder`` and, last, the hash of the manifest itself."""
    manifest = {**manifest, "hashes": hash_folder(folder)}
    manifest.pop("digest", None)
    with replacing_file(folder / "manifest.json") as partial:
        partial.write_text(_text({**manifest, "digest": _digest(manifest)}), encoding="utf-8")


def check_signed(folder: Path, manifest: dict[str, Any], what: str, advice: str) -> None:
    """Compare every byte of ``folder`` with its manifest, and the manifest with itself.

    Args:
        folder: of the manifest.
        manifest: as it was read.
        what: the folder in a word, for a file that is not part of it.
        advice: what to do about a file that was changed or is missing.

    Raises:
        InputError: if a file was changed, is missing or was added; names the first.
    """
    body = {key: value for key, value in manifest.items() if key != "digest"}
    text = (folder / "manifest.json").read_text(encoding="utf-8")
    if manifest.get("digest") != _digest(body) or text != _text(manifest):
        raise InputError(f"{folder}: manifest.json was changed after it was written; {advice}")
    check_files(folder, manifest["hashes"], what, advice)


def check_files(folder: Path, expected: dict[str, str], what: str, advice: str) -> None:
    """Compare the files of ``folder`` with their hashes.

    Raises:
        InputError: as `check_signed`.
    """
    found = hash_folder(folder)
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            raise InputError(f"{folder}: {name} is missing; {advice}")
        if name not in expected:
            raise InputError(f"{folder}: {name} is not part of this {what}; move it elsewhere")
        if expected[name] != found[name]:
            raise InputError(f"{folder}: {name} was changed after it was written; {advice}")


def _text(manifest: dict[str, Any]) -> str:
    return json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(_text(manifest).encode()).hexdigest()
