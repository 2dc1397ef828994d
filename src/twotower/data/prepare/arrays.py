"""Arrays written to .npy files a few rows at a time, so that none has to fit in memory."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.lib import format as npy


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
