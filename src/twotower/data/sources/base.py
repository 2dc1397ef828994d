"""Sources of public data sets: address, checks, terms, and how the files are read."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from twotower.core.errors import InputError, shown
from twotower.core.files import sha256
from twotower.data.prepare.spec import Spec

Notice = Callable[[str], None]
"""Is told, in one line, what a person should know: the licence, which source answered."""

Progress = Callable[[str, int, int | None], None]
"""Is told the file name, the bytes so far and the bytes in all (None when the server does not say)."""

Reader = Callable[[Path, Path, str | None], Spec]
"""Reads the official files below the first folder, writes tables into the second, and returns the spec that
names them; the third argument is the category, for sets that have one."""


class SourceUnavailable(InputError):  # noqa: N818 (what happened, as in the words of a person)
    """Report a source that did not answer, or gave something else than the published file."""


@dataclass(frozen=True)
class Archive:
    """Describe one file to download."""

    name: str
    address: str
    size: int | None = None
    """Bytes; None where none is published."""
    md5: str | None = None
    """Published checksum in hexadecimal; None where there is none."""


@dataclass(frozen=True)
class Source:
    """Describe one data set by name."""

    name: str
    title: str
    home: str
    """The page a person reads; the only address of a set that asks for a log-in."""
    licence: str
    """The terms in a sentence or two, shown before use."""
    citation: str
    read: Reader
    archives: tuple[Archive, ...] = ()
    """Empty when there is nothing to download without a log-in. ``{category}`` in a name or address is filled in."""
    restricted: bool = False
    """True when the terms forbid commercial use or passing the data on."""
    categories: tuple[str, ...] = ()
    """Its parts, for a set that is fetched by category."""
    drawn: bool = False
    """True when it is made on the spot: nothing is downloaded or read."""
    in_registry: bool = False
    """True when the package registry has a copy, for homes that do not answer: see `twotower.data.sources.wheel`."""

    @property
    def size(self) -> int | None:
        """Return the bytes of the download, None when not all are published."""
        sizes = [archive.size for archive in self.archives]
        return sum(size for size in sizes if size is not None) if sizes and None not in sizes else None


def find_all(folder: Path, name: str) -> list[Path]:
    """Find the files called ``name`` (a pattern is allowed) below ``folder``, the ones nearest the top first."""
    found = [
        Path(place) / file
        for place, _, files in os.walk(folder, followlinks=True)
        for file in files
        if fnmatch.fnmatch(file, name)
    ]
    return sorted(found, key=lambda path: (len(path.parts), path.as_posix()))


def find(folder: Path, name: str) -> Path | None:
    """Return the first file that `find_all` finds, None without one.

    Raises:
        InputError: if another of its name lies as near the top and holds something else.
    """
    found = find_all(folder, name)
    alike = [path for path in found if (len(path.parts), path.name) == (len(found[0].parts), found[0].name)]
    if len(alike) > 1 and len({sha256(path) for path in alike}) > 1:
        first, second = (shown(path.relative_to(folder).as_posix(), 60) for path in alike[:2])
        raise InputError(
            f"the copy holds {alike[0].name} more than once, {first} and {second} are not the same; give one"
        )
    return found[0] if found else None


def need(folder: Path, name: str) -> Path:
    """Return the first file that `find_all` finds.

    Raises:
        InputError: if there is none, or another as good.
    """
    path = find(folder, name)
    if path is None:
        seen = sorted({file.name for file in find_all(folder, "*")})[:8]
        raise InputError(f"no file {name} in the copy; it holds {', '.join(seen) or 'nothing'}")
    return path
