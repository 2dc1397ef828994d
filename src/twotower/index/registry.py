"""Names become indexes. Add one of ours by its file and one line here; one of your own by `INDEXES.register`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twotower.core.registry import Registry
from twotower.index.base import Index

INDEXES: Registry[type[Any]] = Registry(
    "index",
    "twotower.INDEXES",
    {
        "exact": "twotower.index.exact:ExactIndex",
    },
    group="twotower.indexes",
)


def index_class(kind: str) -> type[Any]:
    """Return the class of an index's name.

    Raises:
        InputError: if no index has that name; names the closest.
    """
    return INDEXES.get(kind)


def index_kind(index: Index) -> str:
    """Return the name of an index, so that `load_index` finds its class again.

    Raises:
        InputError: if its class has no name.
    """
    return INDEXES.name_of(type(index))


def load_index(kind: str, folder: Path) -> Index:
    """Read the index that was saved in ``folder``.

    Raises:
        InputError: if the kind is unknown or the files are not its own.
    """
    index: Index = index_class(kind).load(folder)
    return index
