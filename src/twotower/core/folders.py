"""Folders written beside their place and swapped in, which never take what somebody else put there."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from twotower.core.errors import InputError, cut
from twotower.core.exchange import exchange
from twotower.core.files import read_json, umask
from twotower.core.lock import writing_alone

SEALED = {"bundle": "the bundle", "prepared-data": "the prepared data set", "onnx": "the export"}
"""Kinds of folders that hold the files of their manifest and no others, in words."""
CLUTTER = (".DS_Store", "Thumbs.db", "desktop.ini")
"""Files that a desktop leaves in a folder by itself."""


def check_outside(target: Path) -> None:
    """Refuse a file or folder inside a bundle, a prepared data set or an export: these could not be read from then on.

    Raises:
        InputError: names the folder.
    """
    for parent in target.absolute().parents:
        kind = _kind_of(parent)
        if kind in SEALED:
            raise InputError(
                f"{target}: lies inside {SEALED[kind]} {parent}, which takes no other files; name another place"
            )


def _kind_of(folder: Path) -> str:
    """Return the kind of a folder by its manifest; one with weights too is a bundle whatever that says."""
    manifest = folder / "manifest.json"
    try:
        if not manifest.is_file():
            return ""
        if (folder / "weights.safetensors").is_file():
            return "bundle"
        found = read_json(manifest)
    except (InputError, OSError):
        return ""
    return str(found.get("kind")) if isinstance(found, dict) else ""


def _check_strangers(target: Path, own: tuple[str, ...]) -> None:
    """Refuse to lose a file that somebody else put into the folder."""
    known = own or _listed(target / "manifest.json")
    for path in sorted(target.rglob("*")) if known else ():
        name = path.relative_to(target).as_posix()
        if path.is_dir() or path.name in CLUTTER or name in known or name == "manifest.json":
            continue
        if not any(fnmatchcase(name, pattern) for pattern in own):
            raise InputError(
                f"{target}: {cut(name, 120)} in it was not written by twotower, and would be lost; move it elsewhere"
            )


def _listed(manifest: Path) -> tuple[str, ...]:
    """Return the files that a manifest lists; empty where it lists none."""
    try:
        found = read_json(manifest)
    except (InputError, OSError):
        return ()
    listed = found.get("hashes", found.get("files")) if isinstance(found, dict) else None
    return tuple(listed) if isinstance(listed, dict) else ()


def check_replaceable(
    target: Path, *, marker: str = "manifest.json", kind: str = "", what: str = "", own: tuple[str, ...] = ()
) -> None:
    """Refuse a folder that `replacing_folder` would refuse; long work calls this before it starts.

    Args:
        target: the folder.
        marker: the file that every folder of this kind has.
        kind: what ``manifest.json`` must call what is there; empty: nothing is asked.
        what: ``kind`` in words.
        own: names, or patterns with ``*``, of all files that such a folder may have; empty: those that
            ``manifest.json`` lists.

    Raises:
        InputError: if ``target`` is a file, holds something without ``marker`` in it or of another kind, holds a file
            that is none of its own, or, where a kind or marker is asked, lies inside a bundle, a prepared data set or
            an export.
    """
    manifest = target / "manifest.json"
    if kind and manifest.is_file():
        found = read_json(manifest)
        if not isinstance(found, dict) or found.get("kind") != kind:
            raise InputError(f"{target}: holds something other than {what}; name another folder")
    if kind or marker != "manifest.json":
        check_outside(target)
    if target.exists() and (not target.is_dir() or (any(target.iterdir()) and not (target / marker).exists())):
        raise InputError(
            f"{target}: exists and has no {marker}, so it was not written by twotower; name another folder"
        )
    if target.is_dir():
        _check_strangers(target, own)


@contextlib.contextmanager
def replacing_folder(
    target: Path, *, marker: str = "manifest.json", kind: str = "", what: str = "", own: tuple[str, ...] = ()
) -> Iterator[Path]:
    """Yield an empty folder beside ``target``; swap it in when the block ends, remove it when the block fails.

    Args:
        target: the folder.
        marker: the file that every folder of this kind has.
        kind: what ``manifest.json`` must call what is there; empty: nothing is asked.
        what: ``kind`` in words.
        own: of `check_replaceable`.

    Raises:
        InputError: as `check_replaceable`, or if another process writes ``target``; before any work: nothing is lost.
    """
    check_replaceable(target, marker=marker, kind=kind, what=what, own=own)
    target = target.resolve()  # "." has no name of its own, and a link should keep pointing at what it points at
    target.parent.mkdir(parents=True, exist_ok=True)
    with writing_alone(target):
        partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        try:
            yield partial
            partial.chmod(0o777 & ~umask())
            if target.exists():
                _swap(partial, target)
            else:
                partial.replace(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _swap(partial: Path, target: Path) -> None:
    """Put ``partial`` in the place of ``target`` and remove what was there; a failure or a stop between leaves it.

    Where the system cannot exchange folders, a process that is killed between two renames leaves what was there in a
    folder ``.NAME.old.*`` beside its place.
    """
    if exchange(partial, target):
        shutil.rmtree(partial, ignore_errors=True)
        return
    aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.old."))
    try:
        target.replace(aside / "old")
        partial.replace(target)
    except BaseException:
        if not target.exists():
            (aside / "old").replace(target)
        with contextlib.suppress(OSError):
            aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)
