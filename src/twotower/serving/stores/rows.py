"""Rows to hand to a vector store: id, vector as text and raw columns, a part of the catalogue at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from twotower.core.errors import InputError, shown, unknown_name
from twotower.core.records import FIRST_KNOWN
from twotower.serving.retriever import Retriever

SIDES = ("items", "users")
PART = 4096
"""Rows that are held at a time."""
OURS = ("id", "vector")


class Row(NamedTuple):
    """Hold one item or user."""

    id: str
    vector: str
    """As a list of numbers in JSON, each the shortest text that gives the same float32."""
    columns: dict[str, Any]
    """Raw columns that have a value here; those that are called id or vector are left out."""


class Rows:
    """Read the items or the known users of a bundle, in its order.

    Args:
        retriever: of the bundle.
        side: "items" or "users".

    Raises:
        InputError: if ``side`` is neither, or the model has no vectors.
    """

    def __init__(self, retriever: Retriever, side: str) -> None:
        if side not in SIDES:
            raise unknown_name("side", side, SIDES)
        self.bundle, self.retriever, self.side = retriever.bundle, retriever, side
        items = side == "items"
        self.vocabulary = self.bundle.item_vocabulary if items else self.bundle.user_vocabulary
        self.rows: Tensor = self.bundle.item_ids if items else torch.arange(FIRST_KNOWN, self.bundle.schema.num_users)
        if not len(self.rows):
            raise InputError(f"{self.bundle.folder}: the bundle knows no {side}")
        self._items = retriever.item_vectors()[1] if items else None
        self.dim = self._vectors(0, 1).shape[1]
        """Numbers of a vector."""

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        for begin in range(0, len(self.rows), PART):
            vectors = self._vectors(begin, begin + PART)
            records = self.vocabulary.records(self.rows[begin : begin + PART].tolist())
            if not np.isfinite(vectors).all():
                wrong = records[int((~np.isfinite(vectors)).any(axis=1).argmax())].id
                raise InputError(f"the vector of {shown(wrong)} has numbers that are not finite; train again")
            for record, numbers in zip(records, vectors.astype(np.str_), strict=True):
                kept = {name: value for name, value in record.columns.items() if value is not None}
                columns = {name: value for name, value in kept.items() if name.lower() not in OURS}
                yield Row(record.id, f"[{','.join(numbers)}]", columns)

    def _vectors(self, begin: int, end: int) -> NDArray[np.float32]:
        if self._items is not None:
            return self._items[begin:end]
        return self.retriever.user_vectors(self.vocabulary.ids(self.rows[begin:end].tolist()))[1]
