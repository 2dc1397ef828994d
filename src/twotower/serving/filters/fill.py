"""Columns of items for an index that filters by them itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from twotower.core.errors import InputError, unknown_name
from twotower.index.abilities import FiltersColumns, ItemColumn
from twotower.index.base import AnyIndex
from twotower.serving.filters.columns import ItemColumns, Values


def fill_columns(index: AnyIndex, vocabulary: Path | None, num_rows: int, ids: Tensor) -> None:
    """Give an index the columns of these items that its settings name; one that takes none stays as it is.

    Args:
        index: that has the items.
        vocabulary: Parquet file of the items' ids and raw columns; None: the data has none.
        num_rows: rows of items.
        ids: of the items, int64.

    Raises:
        InputError: if there is no such column, or none that a filter reads.
    """
    if not isinstance(index, FiltersColumns) or not index.columns:
        return
    if vocabulary is None or not vocabulary.is_file():
        raise InputError(f"index.columns = {', '.join(index.columns)}: the data has no table of items")
    columns = ItemColumns(vocabulary, num_rows)
    for name in index.columns:
        if name not in columns.kinds:
            raise unknown_name("column of items that a filter reads", name, columns.kinds, "index.columns")
    index.set_columns(ids, {name: _of_items(columns.values(name), num_rows, ids) for name in index.columns})


def _of_items(values: Values, num_rows: int, ids: Tensor) -> ItemColumn:
    stored: list[Any]
    if values.texts is not None:
        stored = [values.texts[code] for code in values.values.tolist()]
    elif values.kind == "time":
        stored = [f"{text}Z" for text in np.datetime_as_string(values.values, unit="us").tolist()]
    else:
        stored = values.values.tolist()
    found: list[Any] = [None] * num_rows
    for row, value in zip(values.rows.tolist(), stored, strict=True):
        if values.is_list:
            found[row] = [*(found[row] or ()), value]
        else:
            found[row] = value
    return ItemColumn(values.kind, values.is_list, [found[id] for id in ids.tolist()])
