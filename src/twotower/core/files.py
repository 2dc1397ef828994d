"""Files and folders written beside their target and renamed, so that a reader never sees half of one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twotower.core.errors import InputError


@contextlib.contextmanager
def replacing_file(target: Path) -> Iterator[Path]:
    """Yield a path beside ``target``; rename it onto ``target`` when the block ends, remove it when the block fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.chmod(0o666 & ~_umask())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def check_replaceable(target: Path, *, marker: str = "manifest.json") -> None:
    """Refuse a folder that `replacing_folder` would refuse; long work calls this before it starts.

    Raises:
        InputError: if ``target`` is a file, or holds something without ``marker`` in it.
    """
    if target.exists() and (not target.is_dir() or (any(target.iterdir()) and not (target / marker).exists())):
        raise InputError(
            f"{target}: exists and has no {marker}, so it was not written by twotower; name another folder"
        )


@contextlib.contextmanager
def replacing_folder(target: Path, *, marker: str = "manifest.json") -> Iterator[Path]:
    """Yield an empty folder beside ``target``; swap it in when the block ends, remove it when the block fails.

    Raises:
        InputError: if ``target`` holds something that is not ours (neither empty nor with ``marker`` in it), before
            any work: nothing is lost.
    """
    check_replaceable(target, marker=marker)
    target = target.resolve()  # "." has no name of its own, and a link should keep pointing at what it points at
    target.parent.mkdir(parents=True, exist_ok=True)
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
    """Put ``partial`` in the place of ``target`` and remove what was there; a failure or a stop between leaves it."""
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
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None


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
