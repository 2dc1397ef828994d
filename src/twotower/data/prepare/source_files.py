"""The files of a source: by path or glob pattern beside the spec, or by an fsspec address, fetched in their turn."""

from __future__ import annotations

import fnmatch
import glob
from pathlib import Path

from twotower.core.address import WILD, is_address
from twotower.core.errors import InputError, closest
from twotower.core.store import Store
from twotower.data.prepare.spec import Source


def files_of(source: Source, folder: Path) -> list[str]:
    """Return the paths and addresses of a source's files, in the order in which they are read.

    Args:
        source: the source.
        folder: what its paths are relative to.

    Raises:
        InputError: if a file is missing, or an address holds a key.
        ConnectionError: if an address cannot be reached.
    """
    found: list[str] = []
    for name in source.path:
        found += _there(name) if is_address(name) else _here(folder / name)
    return found


def local_copy(name: str, to: Path) -> Path:
    """Return the local path of a file of `files_of`: a file at an address is copied into the folder ``to``.

    Raises:
        InputError: if there is no such file.
        ConnectionError: if the address cannot be reached.
    """
    if not is_address(name):
        return Path(name)
    folder, _, last = name.rpartition("/")
    to.mkdir(parents=True, exist_ok=True)
    Store(folder).fetch(last, to / last)
    return to / last


def _here(full: Path) -> list[str]:
    if full.is_file():
        return [str(full)]
    matches = sorted(path for path in map(Path, glob.glob(str(full), recursive=True)) if path.is_file())  # noqa: PTH207
    if not matches and full.is_dir():
        raise InputError(f"{full}: is a folder; name its files by a pattern, as {full.name}/*.csv")
    if not matches:
        near = [path.name for path in full.parent.iterdir() if path.exists()] if full.parent.is_dir() else []
        raise InputError(f"{full}: no such file" + (f"; {closest(full.name, near)}" if near else ""))
    return [str(path) for path in matches]


def _there(address: str) -> list[str]:
    if "@" in address or "?" in address.removesuffix("?"):
        raise InputError("an address in a spec is kept with the data: give keys by the environment, not in it")
    folder, _, last = address.rpartition("/")
    store = Store(folder)
    names = sorted(name for name in store.sizes() if not name.startswith("."))
    pattern = any(sign in last for sign in WILD)
    matches = [name for name in names if (fnmatch.fnmatchcase(name, last) if pattern else name == last)]
    if not matches:
        raise InputError(f"{store.name}/{last}: no such file" + (f"; {closest(last, names)}" if names else ""))
    return [f"{folder}/{name}" for name in matches]
