"""Address of a bundle elsewhere: what it is, how it is shown, and which file names may come from there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Protocol, runtime_checkable
from urllib.parse import urlsplit, urlunsplit

from twotower.core.errors import InputError, shown
from twotower.core.terminal import visible

MANIFEST = "manifest.json"
MOST_MANIFEST = 16 * 2**20
"""Bytes of a manifest from elsewhere: one of ours has some kilobytes."""
NOTHING, BUNDLE, OTHER = "nothing", "a bundle", "something other than a bundle"
TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


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


def shown_address(address: str) -> str:
    """Return an address without name, password and query, of which a key may be part.

    Examples:
        >>> shown_address("ftp://me:secret@host/films?key=1"), shown_address("runs/films")
        ('ftp://host/films', 'runs/films')
    """
    if "://" not in address:
        return visible(address)
    parts = urlsplit(address)
    return visible(urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "")))


@contextlib.contextmanager
def reaching(address: str) -> Iterator[None]:
    """Turn whatever a library says when it cannot reach an address into one line without keys.

    Raises:
        ConnectionError: for any error but ours.
    """
    try:
        yield
    except (InputError, ConnectionAbortedError):
        raise
    except Exception as error:
        text = f"{type(error).__name__}: {shown(without_keys(str(error), address), 240)[1:].removesuffix(chr(39))}"
        raise ConnectionAbortedError(f"{shown_address(address)}: {text}") from None


def without_keys(text: str, address: str) -> str:
    """Return a text in which the keys of an address, and those of the environment, are stars."""
    parts = urlsplit(address) if "://" in address else None
    keys = [os.environ.get(name, "") for name in TOKENS]
    if parts is not None:
        keys += [parts.netloc.rpartition("@")[0], parts.password or "", parts.query]
    for key in sorted(filter(None, keys), key=len, reverse=True):
        text = text.replace(key, "***")
    return text


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
