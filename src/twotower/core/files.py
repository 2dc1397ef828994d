"""Files written beside their target and renamed, so that a reader never sees half of one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twotower.core.errors import InputError, cut

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
        partial.chmod(0o666 & ~umask())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def umask() -> int:
    """Return the permissions that this process takes from new files, which a temporary one does not heed."""
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
