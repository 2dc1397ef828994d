"""Temporary folder that lives as long as the data set that was made in it."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class TemporaryFolder:
    """Keep a folder that is removed when nothing refers to this object any more, or when Python ends."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="twotower-"))
        self.remove = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)

    def __deepcopy__(self, memo: dict[int, Any]) -> TemporaryFolder:
        return self


@contextlib.contextmanager
def target_folder(to: Path | str | None) -> Iterator[tuple[Path, TemporaryFolder | None]]:
    """Yield the folder to write: ``to``, or a temporary one and what keeps it; a failure removes the temporary one."""
    if to is not None:
        yield Path(to), None
        return
    keeper = TemporaryFolder()
    try:
        yield keeper.path / "data", keeper
    except BaseException:
        keeper.remove()
        raise
