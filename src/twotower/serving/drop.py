"""Deletion of the collections that a bundle used before its index was replaced."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from twotower.core.errors import InputError, shown
from twotower.index.registry import index_class
from twotower.serving.bundle import changing_bundle
from twotower.serving.collections import LEFT, noted, used_by
from twotower.serving.manifest import read_manifest

_OURS = re.compile(r".+[-_][0-9a-f]{12}", re.ASCII)
"""A name that a build has made; a bundle that names another collection does not make us delete that one."""


class Dropped(NamedTuple):
    """Hold what `drop_left` deleted, and what was not there any more."""

    deleted: list[str]
    gone: list[str]


def drop_left(folder: Path | str) -> Dropped:
    """Delete the collections that a bundle used before and uses no longer; a copy of the old bundle fails then.

    Raises:
        InputError: if nothing is left to delete, a name is not one that a build makes, or the engine refuses.
        UnavailableError: if it does not answer; what was deleted by then is said to be gone the next time.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    left, used = noted(manifest), used_by(folder, manifest)
    if not left:
        uses = "" if used is None else f"; it uses '{used.name}': give it another index first, such as --kind exact"
        raise InputError(f"{folder}: no collection is left from an earlier index{uses}")
    for one in left:
        if not _OURS.fullmatch(one.name) or one == used:
            raise InputError(f"{folder}: collection {shown(one.name)} is not one that was left here; delete it by hand")
    deleted: list[str] = []
    gone: list[str] = []
    with changing_bundle(folder) as (_, changed):
        for one in left:
            (deleted if _class(one.kind).delete_collection(one.name) else gone).append(one.name)
        del changed[LEFT]
    return Dropped(deleted, gone)


def _class(kind: str) -> type[Any]:
    """The class of an index that is a `twotower.index.abilities.KeptElsewhere`."""
    found = index_class(kind)
    if not hasattr(found, "delete_collection"):
        raise InputError(f"index '{kind}' keeps no collections elsewhere")
    return found
