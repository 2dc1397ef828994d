"""Exchange of two folders in one step, where the system has such a step."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path

_HERE = -100
"""AT_FDCWD: paths are those of the process."""
_EXCHANGE = 2
"""RENAME_EXCHANGE."""
_UNABLE = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.EXDEV)
"""Errors of kernels and file systems that cannot do it."""


def exchange(one: Path, other: Path) -> bool:
    """Exchange what two paths of one file system name: each is there at any moment, also where the process is killed.

    Returns:
        False where the system or the file system has no such step; nothing has changed then.

    Raises:
        OSError: if it has, and it fails.
    """
    if sys.platform != "linux":
        return False
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    if rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNABLE:
        return False
    raise OSError(number, os.strerror(number), str(other))
