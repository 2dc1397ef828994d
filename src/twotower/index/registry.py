"""Names become indexes: add one by writing its file and one line here."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from twotower.core.errors import unknown_name
from twotower.index.base import Index

INDEXES = {
    "exact": "twotower.index.exact:ExactIndex",
}


def index_class(kind: str) -> type[Any]:
    """The class of an index's name.

    Raises:
        InputError: if no index has that name; names the closest.
    """
    if kind not in INDEXES:
        raise unknown_name("index", kind, INDEXES)
    module, attribute = INDEXES[kind].split(":")
    return getattr(import_module(module), attribute)


def index_kind(index: Index) -> str:
    """The name of an index, so that `load_index` finds its class again.

    Raises:
        InputError: if it is of a class without a name here.
    """
    written = f"{type(index).__module__}:{type(index).__name__}"
    for kind, place in INDEXES.items():
        if place == written:
            return kind
    raise unknown_name("index", written, INDEXES)


def load_index(kind: str, folder: Path) -> Index:
    """The index that was saved in ``folder``."""
    index: Index = index_class(kind).load(folder)
    return index
