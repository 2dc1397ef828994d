"""Arrays written to .npy files a few rows at a time, so that none has to fit in memory."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.lib import format as npy

BLOCK = 1 << 22
"""Values of an array that are in memory at once."""


def equal_seconds(folder: Path, block: int = BLOCK) -> int:
    """Count the events of a log on disk that fall in the same second as the same user's event before.

    Args:
        folder: with ``times.npy`` and ``offsets.npy``.
        block: values that are in memory at once.
    """
    times = np.load(folder / "times.npy", mmap_mode="r")
    starts = np.load(folder / "offsets.npy", mmap_mode="r")
    count = 0
    for start in range(1, len(times), block):
        stop = min(start + block, len(times))
        equal = times[start:stop] == times[start - 1 : stop - 1]
        here = starts[np.searchsorted(starts, start) : np.searchsorted(starts, stop)]
        equal[here - start] = False  # the first event of a user
        count += int(equal.sum())
    return count


class RowWriter:
    """Fill a .npy file of known shape, in order.

    Args:
        path: of the file.
        dtype: of its values; what is appended is cast.
        shape: of the whole array.
    """

    def __init__(self, path: Path, dtype: Any, shape: tuple[int, ...]) -> None:
        self.dtype = np.dtype(dtype)
        self.shape = shape
        self._rows = 0
        self._file = path.open("wb")
        header = {"descr": npy.dtype_to_descr(self.dtype), "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(self._file, header)

    def append(self, rows: Any) -> None:
        """Write the next rows."""
        block = np.ascontiguousarray(rows, dtype=self.dtype)
        assert block.shape[1:] == self.shape[1:], f"rows of {block.shape[1:]} in an array of {self.shape}"
        self._file.write(block.data)
        self._rows += len(block)

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        assert kind is not None or self._rows == self.shape[0], f"{self._rows} of {self.shape[0]} rows were written"
