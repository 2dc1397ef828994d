"""Bundles that a process has loaded, by folder or address: a worker of many parts loads each once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from twotower.core.address import is_address
from twotower.core.errors import InputError
from twotower.data.temporary import TemporaryFolder
from twotower.serving.retriever import Retriever, load
from twotower.serving.share.transfer import pull

MOST = 4
"""Bundles that are held."""

_held: dict[tuple[str, str], Retriever] = {}
_sources: dict[str, tuple[str, TemporaryFolder]] = {}
"""Where a folder was pulled from, and what keeps it until the process ends."""
_guard = threading.RLock()


def load_from(address: str, device: str = "cpu") -> Retriever:
    """Load the bundle of a folder, or fetch one from an address (as `push` takes it) and load it.

    Raises:
        InputError: if there is no bundle or a damaged one.
        ConnectionError: if the address cannot be reached.
    """
    if not is_address(address):
        return load(address, device)
    keeper = TemporaryFolder()
    pull(address, keeper.path / "bundle")
    retriever = load(keeper.path / "bundle", device)
    _sources[str(retriever.bundle.folder)] = (address, keeper)
    return retriever


def address_of(retriever: Retriever) -> str:
    """Return by what another process finds the bundle: the address it was fetched from, or its whole path."""
    folder = retriever.bundle.folder
    return _sources[str(folder)][0] if str(folder) in _sources else str(folder.resolve())


@contextlib.contextmanager
def holding(*retrievers: Retriever) -> Iterator[None]:
    """Hold loaded bundles for the work that this process does itself while the block runs."""
    keys = {(address_of(one), str(one.bundle.device)): one for one in retrievers}
    with _guard:
        _held.update(keys)
    try:
        yield
    finally:
        with _guard:
            for key in keys:
                _held.pop(key, None)


def loaded(address: str, digest: str, device: str) -> Retriever:
    """Return the bundle of a part, loaded once a process.

    Raises:
        InputError: if there is none, or another one than the command saw.
        ConnectionError: if the address cannot be reached.
    """
    key = (address, device)
    with _guard:
        if key not in _held:
            while len(_held) >= MOST:
                _held.pop(next(iter(_held)))
            _held[key] = load_from(address, device)
        found = _held[key]
        if found.bundle.manifest["digest"] != digest:
            del _held[key]
            raise InputError(f"{address}: a worker sees another bundle there than the command; run it again")
    return found
