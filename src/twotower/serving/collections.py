"""Collections of a vector store that a bundle used before its index was replaced: noted for whoever serves it still."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from twotower.core.errors import InputError, UnavailableError
from twotower.core.files import read_json
from twotower.index.abilities import KeptElsewhere
from twotower.index.base import AnyIndex
from twotower.index.saved import NOTE
from twotower.serving.manifest import read_manifest

log = logging.getLogger(__name__)

LEFT = "left"
"""Key of the manifest: the collections that the bundle used before."""


class Collection(NamedTuple):
    """Hold the kind of the index, and the name that its engine knows."""

    kind: str
    name: str


def left_behind(folder: Path, index: AnyIndex | None) -> list[dict[str, str]]:
    """Return the collections of the bundle in ``folder`` that a new one with ``index`` in its place does not use.

    A collection that is left for the first time is said: whoever still serves the old bundle needs it.
    """
    if not (folder / "manifest.json").is_file():
        return []
    manifest = read_manifest(folder)
    before, used = noted(manifest), used_by(folder, manifest)
    now = index.collection if isinstance(index, KeptElsewhere) else None
    if used is not None and used.name != now and used not in before:
        log.warning(
            "collection '%s' of %s is left for whoever still serves the old bundle; to delete it later: "
            "twotower index %s --drop",
            used.name,
            used.kind,
            folder,
        )
        before.append(used)
    return [one._asdict() for one in before if one.name != now]


@contextlib.contextmanager
def deleted_on_failure(index: AnyIndex | None) -> Iterator[None]:
    """Delete the collection that ``index`` is building if the block fails: no bundle would ever name it."""
    try:
        yield
    except BaseException:
        if isinstance(index, KeptElsewhere) and index.collection:
            with contextlib.suppress(InputError, UnavailableError):
                index.delete_collection(index.collection)
        raise


def noted(manifest: dict[str, Any]) -> list[Collection]:
    """Return the collections that a manifest says are left."""
    return [Collection(str(one["kind"]), str(one["name"])) for one in manifest.get(LEFT, [])]


def used_by(folder: Path, manifest: dict[str, Any]) -> Collection | None:
    """Return the collection that a bundle's index is in, as its files say: the engine need not answer."""
    note = folder / "index" / NOTE
    if manifest["index"] is None or not note.is_file():
        return None
    kept = read_json(note).get("kept")
    name = kept.get("collection") if isinstance(kept, dict) else None
    return None if name is None else Collection(str(manifest["index"]), str(name))
