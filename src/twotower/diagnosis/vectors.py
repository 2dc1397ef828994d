"""Vectors to be diagnosed, in memory or mapped from a file, read in chunks so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from twotower.core.errors import InputError

CHUNK_NUMBERS = 4_000_000
"""Numbers a chunk holds: 32 MB in float64."""
LARGEST = 1e70
"""Beyond this length the squared eigenvalues overflow float64."""
SMALLEST = 1e-150
"""Below this length squares of numbers vanish in float64."""
ROUNDING = 1e-12
"""A length below this share of the root-mean-square length counts as zero."""


class Vectors:
    """Check vectors [count, dim] and hold their lengths; ``where`` names them in errors.

    Raises:
        InputError: if the array is not 2-d of numbers, has fewer than two rows or dimensions, or holds NaN or inf.
    """

    def __init__(self, vectors: Any, *, where: str = "vectors", ids: list[str] | None = None) -> None:
        array = vectors.detach().cpu() if isinstance(vectors, Tensor) else np.asanyarray(vectors)
        if array.ndim != 2:
            raise InputError(
                f"{where}: expected a 2-d array [rows, dimensions], got {array.ndim}-d of shape {tuple(array.shape)}"
            )
        if isinstance(array, np.ndarray):
            if array.dtype.kind not in "fiub":
                raise InputError(f"{where}: expected real numbers, got values of type {array.dtype}")
        elif array.dtype.is_complex:
            raise InputError(f"{where}: expected real numbers, got values of type {array.dtype}")
        self.count, self.dim = (int(size) for size in array.shape)
        if self.count < 2:
            raise InputError(f"{where}: {self.count} vector(s); a geometry needs at least two")
        if self.dim < 2:
            raise InputError(f"{where}: {self.dim} dimension(s); a cosine there is only a sign, give at least two")
        self._array = array
        self._where = where
        self._ids = ids
        self._only: Tensor | None = None
        self.norms = self._checked_norms()

    def part(self, chosen: Tensor) -> Vectors:
        """Return the rows of these numbers, ascending, as vectors of their own; nothing is copied or checked again."""
        part = copy(self)
        part._only = chosen if self._only is None else self._only[chosen]
        part.count, part.norms = len(chosen), self.norms[chosen]
        part._ids = None if self._ids is None else [self._ids[row] for row in chosen.tolist()]
        return part

    def chunks(self) -> Iterator[Tensor]:
        """Yield all rows in order, in float64."""
        step = max(1, CHUNK_NUMBERS // self.dim)
        for start in range(0, self.count, step):
            part = slice(start, start + step)
            yield self._double(part) if self._only is None else self._numbered(self._only[part])

    def take(self, index: Tensor) -> Tensor:
        """Return chosen rows, in float64."""
        return self._numbered(index if self._only is None else self._only[index])

    def _numbered(self, index: Tensor) -> Tensor:
        return self._double(index.numpy() if isinstance(self._array, np.ndarray) else index)

    def _double(self, index: Any) -> Tensor:
        part = self._array[index]
        if isinstance(part, Tensor):
            return part.double()
        with np.errstate(invalid="ignore"):  # what is no number is told by its row
            return torch.from_numpy(np.array(part, dtype=np.float64))

    def _checked_norms(self) -> Tensor:
        norms, bad, zeros = [], [], True
        start = 0
        for chunk in self.chunks():
            finite = chunk.isfinite().all(dim=1)
            bad += ((~finite).nonzero()[:, 0] + start).tolist()
            norms.append(torch.linalg.vector_norm(chunk, dim=1))
            zeros = zeros and not bool((chunk != 0).any())
            start += len(chunk)
        if bad:
            named = ", ".join(str(row) if self._ids is None else self._ids[row] for row in bad[:5])
            more = ", …" if len(bad) > 5 else ""
            what = "rows" if self._ids is None else "ids"
            raise InputError(
                f"{self._where}: {len(bad)} of {self.count} rows hold NaN or inf ({what} {named}{more}); "
                "remove them or mend the model that made them"
            )
        lengths = torch.cat(norms)
        if not zeros and not bool((lengths >= SMALLEST).any()):
            raise InputError(f"{self._where}: all numbers are so small that their squares vanish; multiply all by one")
        if not bool((lengths <= LARGEST).all()):
            row = int(lengths.argmax())
            name = f"row {row}" if self._ids is None else f"id {self._ids[row]}"
            raise InputError(
                f"{self._where}: {name} holds numbers whose squares overflow; no space of a model is so large"
            )
        return lengths


class UnitRows:
    """Scale rows to length 1 after ``centre`` is subtracted; rows without a direction are left out.

    ``kept`` holds the row numbers of the others.
    """

    def __init__(self, rows: Vectors, centre: Tensor | None = None) -> None:
        self._rows = rows
        self._centre = centre
        scale = rows.norms.square().mean().sqrt()
        lengths = (
            rows.norms
            if centre is None
            else torch.cat([torch.linalg.vector_norm(chunk - centre, dim=1) for chunk in rows.chunks()])
        )
        self._has_direction = lengths > ROUNDING * scale if scale > 0 else torch.zeros(rows.count, dtype=torch.bool)
        self.kept = self._has_direction.nonzero()[:, 0]

    def chunks(self) -> Iterator[Tensor]:
        """Yield all kept rows in order, in float64."""
        start = 0
        for chunk in self._rows.chunks():
            mask = self._has_direction[start : start + len(chunk)]
            start += len(chunk)
            yield self._scaled(chunk if mask.all() else chunk[mask])

    def take(self, index: Tensor) -> Tensor:
        """Return rows number ``index`` of the kept ones, in float64."""
        return self._scaled(self._rows.take(self.kept[index]))

    def _scaled(self, chunk: Tensor) -> Tensor:
        moved = chunk if self._centre is None else chunk - self._centre
        return moved / torch.linalg.vector_norm(moved, dim=1, keepdim=True)
