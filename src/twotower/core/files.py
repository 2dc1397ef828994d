"""Files and folders written beside their target and renamed, so that a reader never sees half of one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from twotower.core.errors import InputError, cut
from twotower.core.exchange import exchange
from twotower.core.lock import writing_alone

MOST_DEEP = 20
TOO_DEEP = f"its lists and tables are nested too deeply, over {MOST_DEEP} levels"


@contextlib.contextmanager
def replacing_file(target: Path) -> Iterator[Path]:
    """Yield a path beside ``target``; rename it onto ``target`` when the block ends, remove it when the block fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        with partial.open("r+b") as file:  # Windows flushes only what may be written
            os.fsync(file.fileno())
        partial.chmod(0o666 & ~_umask())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


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
            partial.chmod(0o777 & ~_umask())
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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON; NaN and infinity are refused, since they are not JSON."""
    with replacing_file(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        InputError: if the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except RecursionError:
        raise InputError(f"{path}: not valid JSON here: it is nested too deeply") from None
    except ValueError as error:  # of JSON, of UTF-8, or a number of thousands of digits
        raise InputError(f"{path}: not valid JSON ({cut(str(error), 160)})") from None


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """Parse TOML.

    Raises:
        InputError: if it is not TOML, or more than can be read; begins with ``where``.
    """
    try:
        values = tomllib.loads(text)
    except RecursionError:
        raise InputError(f"{where}: {TOO_DEEP}") from None
    except ValueError as error:  # of TOML, a time that no clock has, or a number of thousands of digits
        raise InputError(f"{where}: not valid TOML ({cut(str(error), 160)})") from None
    check_depth(values, where)
    return values


def check_depth(values: object, where: str) -> None:
    """Refuse lists and tables that are nested deeper than any setting is: what reads on calls itself for each level.

    Raises:
        InputError: begins with ``where``.
    """
    level = [values]
    for _ in range(MOST_DEEP):
        level = [
            part
            for parts in level
            if isinstance(parts, dict | list | tuple)
            for part in (parts.values() if isinstance(parts, dict) else parts)
        ]
        if not level:
            return
    raise InputError(f"{where}: {TOO_DEEP}")


def read_toml(path: Path, what: str = "file") -> dict[str, Any]:
    """Read a TOML file, with or without a byte-order mark.

    Raises:
        InputError: if it is missing, a folder, not UTF-8 or not TOML; ``what`` names what was looked for.
    """
    try:
        return parse_toml(path.read_text(encoding="utf-8-sig"), str(path))
    except FileNotFoundError:
        raise InputError(f"{path}: no such {what}") from None
    except IsADirectoryError:
        raise InputError(f"{path}: a folder; give the {what} itself, such as run.toml in it") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not valid TOML ({error})") from None


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_folder(folder: Path, *, leave_out: tuple[str, ...] = ("manifest.json",)) -> dict[str, str]:
    """Return the SHA-256 of every file below ``folder``, by its path there with forward slashes."""
    return {
        name: sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and (name := path.relative_to(folder).as_posix()) not in leave_out
    }
