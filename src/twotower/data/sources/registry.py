"""Registry of data sets. Add one: its family's file holds the `Source`; list it here."""

from __future__ import annotations

from twotower.core.errors import unknown_name
from twotower.data.sources import amazon, deezer, kuairand, local, mind, movielens, synthetic, taobao
from twotower.data.sources.base import Source

SOURCES: dict[str, Source] = {
    source.name: source
    for family in (movielens, kuairand, amazon, mind, taobao, deezer, synthetic, local)
    for source in family.SOURCES
}


def source_of(name: str) -> Source:
    """Return the source of that name.

    Raises:
        InputError: if there is none; names the closest.
    """
    if name not in SOURCES:
        raise unknown_name("data set", name, SOURCES)
    return SOURCES[name]
