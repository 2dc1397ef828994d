"""Unpack archives without trusting them: nothing is written outside the folder, no links, no special files."""

from __future__ import annotations

import gzip
import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from twotower.core.errors import InputError

TAR = (".tar", ".tar.gz", ".tgz")
ZIP = (".zip", ".whl")


def is_archive(path: Path) -> bool:
    """Return True for a name that `unpack` understands."""
    return path.name.lower().endswith((*TAR, *ZIP, ".gz"))


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip, wheel, tar, tar.gz or gz file into ``folder``.

    Raises:
        InputError: if it is broken, or a member would land outside ``folder``; what came before stays written.
    """
    name = archive.name.lower()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if name.endswith(ZIP):
            _unpack_zip(archive, folder)
        elif name.endswith(TAR):
            _unpack_tar(archive, folder)
        elif name.endswith(".gz"):
            with gzip.open(archive) as packed, (folder / archive.name[:-3]).open("wb") as plain:
                shutil.copyfileobj(packed, plain)
        else:
            raise InputError(f"{archive}: not an archive that is understood; give a zip, tar, tar.gz or gz file")
    except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise InputError(f"{archive}: broken archive ({error}); fetch it again") from None


def _unpack_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as packed:
        for member in packed.infolist():
            target = _inside(folder, member.filename, archive)
            if not member.is_dir():
                target.parent.mkdir(parents=True, exist_ok=True)
                with packed.open(member) as source, target.open("wb") as plain:
                    shutil.copyfileobj(source, plain)


def _unpack_tar(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as packed:
        for member in packed:
            target = _inside(folder, member.name, archive)
            if member.isfile():
                target.parent.mkdir(parents=True, exist_ok=True)
                source = packed.extractfile(member)
                assert source is not None
                with source, target.open("wb") as plain:
                    shutil.copyfileobj(source, plain)
            elif not member.isdir():
                raise InputError(f"{archive}: its member {member.name!r} is a link or device; it is not unpacked")


def _inside(folder: Path, name: str, archive: Path) -> Path:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or ".." in parts or parts[0].startswith("/") or ":" in parts[0]:
        raise InputError(f"{archive}: its member {name!r} would be written outside the folder; it is not unpacked")
    return folder.joinpath(*parts)
