"""One writer for a target: a lock file beside it that the system lets go when its process ends, however it ends."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from twotower.core.errors import InputError, shown

_PLACE = 1 << 30
"""The byte that is locked on Windows, beyond what the file says, so that others can read that."""
_UNABLE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""Errors of file systems that know no locks: there a target is written without one."""

_held: dict[Path, tuple[int, int]] = {}
"""What this process holds: the thread, and how often it entered."""
_guard = threading.Lock()


@contextlib.contextmanager
def writing_alone(target: Path) -> Iterator[None]:
    """Hold ``target`` for this thread while the block runs; a file ``.NAME.lock`` beside it says who does.

    A thread may hold a target several times over. After a crash nothing is held: what counts is the system's lock on
    the file, not the file, so that one left over is no obstacle.

    Args:
        target: a file or folder, there or not; folders above it are made, and removed where nothing came to be in them.

    Raises:
        InputError: if another process, or another thread, holds it; says which.
    """
    target = target.resolve()
    if _enter(target):
        try:
            yield
        finally:
            _leave(target)
        return
    handle: int | None = None
    missing = [folder for folder in target.parents if not folder.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle = _lock(target)
        yield
    finally:
        _leave(target)
        with contextlib.suppress(OSError):  # on Windows, while another looks into it
            if handle is not None:
                _file_of(target).unlink()
        if handle is not None:
            os.close(handle)
        with contextlib.suppress(OSError):  # not empty, as a rule
            for folder in missing:
                folder.rmdir()


def _enter(target: Path) -> bool:
    """Note that this thread holds the target; whether it did before."""
    me = threading.get_ident()
    with _guard:
        thread, depth = _held.get(target, (me, 0))
        if thread != me:
            raise InputError(f"{target}: another thread of this process writes it; wait for it, or name another target")
        _held[target] = (me, depth + 1)
    return depth > 0


def _leave(target: Path) -> None:
    with _guard:
        thread, depth = _held[target]
        if depth > 1:
            _held[target] = (thread, depth - 1)
        else:
            del _held[target]


def _file_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.lock")


def _lock(target: Path) -> int | None:
    """Lock the file; None where the file system knows no locks."""
    path = _file_of(target)
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            if not _take(handle):
                raise InputError(
                    f"{target}: another process{_reads(path)} writes it; wait until it is done, or name another target"
                )
            if _is_same(handle, path):  # else its holder removed it between our two steps
                os.ftruncate(handle, 0)
                os.write(handle, f"{os.getpid()} on {platform.node()}".encode())
                return handle
        except OSError as error:
            os.close(handle)
            if error.errno in _UNABLE:
                return None
            raise
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _is_same(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _reads(path: Path) -> str:
    try:
        said = path.read_text(encoding="utf-8", errors="replace")[:200].strip()
    except OSError:
        return ""
    return f" ({shown(said)[1:-1]})" if said else ""


if sys.platform == "win32":
    import msvcrt

    def _take(handle: int) -> bool:
        os.lseek(handle, _PLACE, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        finally:
            os.lseek(handle, 0, os.SEEK_SET)
        return True
else:
    import fcntl

    def _take(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
