"""Unpack archives without trusting them: nothing is written outside the folder, no links, no special files."""

from __future__ import annotations

import errno
import gzip
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import IO, Protocol, runtime_checkable

from twotower.core.errors import InputError, cut, shown

TAR = (".tar", ".tar.gz", ".tgz")
ZIP = (".zip", ".whl")
ALWAYS, MOST_TIMES = 1 << 30, 200
"""Bytes that any archive may unpack to, and how many times its own size beyond them: tables of data shrink less."""
BLOCK = 1 << 20
_IN_THE_WAY = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)


def is_archive(path: Path) -> bool:
    """Return True for a name that `unpack` understands."""
    return path.name.lower().endswith((*TAR, *ZIP, ".gz"))


@runtime_checkable
class _Reads(Protocol):
    def read(self, size: int, /) -> bytes:
        """Return the next bytes."""
        ...


class _Room:
    """Bytes that an archive may still take when it is unpacked: a bomb is refused, and so is what the disk cannot hold.

    Args:
        archive: whose size counts.
        folder: on the disk that is written to.
    """

    def __init__(self, archive: Path, folder: Path) -> None:
        self.archive, size = archive, archive.stat().st_size
        self.most = max(ALWAYS, MOST_TIMES * size)
        self.free = shutil.disk_usage(folder).free
        self.taken = 0

    def take(self, count: int) -> None:
        """Count bytes that are about to be written.

        Raises:
            InputError: if there are too many.
        """
        self.taken += count
        if self.taken > self.most:
            size = self.archive.stat().st_size
            raise InputError(
                f"{self.archive}: unpacks to over {self.most / 1e9:,.1f} GB from {size:,} bytes, more than data do; it "
                "is not unpacked: unpack it yourself where it is sound, and give the folder"
            )
        if self.taken > self.free:
            raise InputError(
                f"{self.archive}: unpacks to over {self.free / 1e9:,.1f} GB, which is all that is free on the disk; "
                "make room, or name a folder on another disk"
            )

    def copy(self, source: _Reads, plain: IO[bytes]) -> None:
        """Copy to the end of ``source``."""
        while block := source.read(BLOCK):
            self.take(len(block))
            plain.write(block)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip, wheel, tar, tar.gz or gz file into ``folder``.

    Raises:
        InputError: if it is broken, a member would land outside ``folder``, or it unpacks to more than data do or the
            disk can hold; what came before stays written.
    """
    name = archive.name.lower()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        room = _Room(archive, folder)
        if name.endswith(ZIP):
            _unpack_zip(archive, folder, room)
        elif name.endswith(TAR):
            _unpack_tar(archive, folder, room)
        elif name.endswith(".gz"):
            with gzip.open(archive) as packed, (folder / archive.name[:-3]).open("wb") as plain:
                room.copy(packed, plain)
        else:
            raise InputError(f"{archive}: not an archive that is understood; give a zip, tar, tar.gz or gz file")
    except InputError:
        raise
    except OSError as error:
        if error.errno in _IN_THE_WAY:
            raise InputError(
                f"{archive}: its members are in each other's way, or have names that cannot be written "
                f"({cut(error.strerror or '', 80)}); unpack it yourself, and give the folder"
            ) from None
        if error.errno is not None:  # the disk's own trouble
            raise
        raise _broken(archive, error) from None
    except Exception as error:  # the libraries for each packing raise what they like on changed bytes
        raise _broken(archive, error) from None


def _broken(archive: Path, error: Exception) -> InputError:
    said = cut(" ".join(str(error).split()), 120)
    return InputError(f"{archive}: broken archive ({said or type(error).__name__}); fetch it again")


def _unpack_zip(archive: Path, folder: Path, room: _Room) -> None:
    with zipfile.ZipFile(archive) as packed:
        _Room(archive, folder).take(sum(member.file_size for member in packed.infolist()))
        for member in packed.infolist():
            target = _inside(folder, member.filename, archive)
            if stat.S_ISLNK(member.external_attr >> 16):
                raise _a_link(archive, member.filename)
            if not member.is_dir():
                target.parent.mkdir(parents=True, exist_ok=True)
                with packed.open(member) as source, _new(target, archive) as plain:
                    room.copy(source, plain)


def _unpack_tar(archive: Path, folder: Path, room: _Room) -> None:
    with tarfile.open(archive) as packed:
        for member in packed:
            target = _inside(folder, member.name, archive)
            if member.isfile():
                target.parent.mkdir(parents=True, exist_ok=True)
                source = packed.extractfile(member)
                assert source is not None
                with source, _new(target, archive) as plain:
                    room.copy(source, plain)
            elif not member.isdir():
                raise _a_link(archive, member.name)


def _a_link(archive: Path, name: str) -> InputError:
    return InputError(f"{archive}: its member {shown(name)} is a link or device; it is not unpacked")


def _new(target: Path, archive: Path) -> IO[bytes]:
    """Open a file that is not there yet: of two members of one name one would be lost."""
    if target.is_file():
        raise InputError(
            f"{archive}: two of its members are called {shown(target.name)}; unpack it yourself, and give one"
        )
    return target.open("wb")


def _inside(folder: Path, name: str, archive: Path) -> Path:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or ".." in parts or parts[0].startswith("/") or ":" in parts[0]:
        raise InputError(f"{archive}: its member {shown(name)} would be written outside the folder; it is not unpacked")
    return folder.joinpath(*parts)
