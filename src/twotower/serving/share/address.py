"""Place of a bundle elsewhere: what it holds, and which file names may come from there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Protocol, runtime_checkable

from twotower.core.errors import InputError, shown
from twotower.core.terminal import visible

MANIFEST = "manifest.json"
MOST_MANIFEST = 16 * 2**20
"""Bytes of a manifest from elsewhere: one of ours has some kilobytes."""
NOTHING, BUNDLE, OTHER = "nothing", "a bundle", "something other than a bundle"


@runtime_checkable
class Place(Protocol):
    """Hold a bundle at an address, or nothing yet."""

    @property
    def name(self) -> str:
        """Return the address as it may be shown."""
        ...

    def holds(self) -> str:
        """Return `NOTHING`, `BUNDLE` or `OTHER`."""
        ...

    def fetch(self, name: str, to: Path) -> None:
        """Copy one file from there.

        Raises:
            InputError: if there is none.
            ConnectionError: if the place cannot be reached.
        """
        ...

    def store(self, folder: Path, hashes: dict[str, str], *, replace: bool) -> None:
        """Copy the files of ``hashes`` and the manifest to there: whole, checked, or not at all.

        Raises:
            InputError: if something came there meanwhile.
            ConnectionError: if the place cannot be reached, or what arrived is not what was sent.
        """
        ...


def check_names(names: Sequence[object], where: str) -> list[str]:
    """Return names of files below a folder, in order.

    Raises:
        InputError: if one could lie elsewhere, or is no plain name.
    """
    for name in names:
        windows = PureWindowsPath(str(name))
        parts = PurePosixPath(str(name)).parts
        plain = isinstance(name, str) and name == "/".join(parts) and visible(name) == name and "\\" not in name
        if not plain or not parts or ".." in parts or windows.drive or windows.root or name == MANIFEST:
            raise InputError(
                f"{where}: its manifest names a file {shown(name)}, which no bundle has; nothing is fetched"
            )
    return sorted(str(name) for name in names)
