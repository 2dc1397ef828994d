"""Addresses of files elsewhere, behind fsspec: opened, shown without keys, and with errors of one line."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

from twotower.core.errors import InputError, shown
from twotower.core.terminal import visible

TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
WILD = "*?[]"


class Opened(NamedTuple):
    """Hold a file system, a path in it without a slash at its end, and the same as a local path where it is one."""

    fs: Any
    path: str
    local: Path | None


def open_address(address: str) -> Opened:
    """Open the file system of an address, or of a plain path.

    Args:
        address: such as ``s3://bucket/films``, ``gs://bucket/films``, ``memory://films``, ``runs/films``.

    Raises:
        InputError: if there is no such kind of address, its package is missing, or it is not of one folder or file.
    """
    from fsspec.core import url_to_fs
    from fsspec.implementations.local import LocalFileSystem

    name = shown_address(address)
    if "::" in address or any(sign in address for sign in WILD):
        raise InputError(f"{name}: give the address of one folder, without '::' and without any of {WILD}")
    try:
        fs, path = url_to_fs(address)
    except ImportError as error:
        raise InputError(f"{name}: this kind of address needs a package: {shown(str(error), 160)}") from None
    except ValueError as error:
        raise InputError(f"{name}: {shown(str(error), 160)}; such as s3://bucket/name or a folder") from None
    path = str(path).rstrip("/")
    return Opened(fs, path, Path(path) if isinstance(fs, LocalFileSystem) else None)


def is_address(text: object) -> bool:
    """Return whether a text is the address of a file system rather than a plain path."""
    return "://" in str(text)


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
