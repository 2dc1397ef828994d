"""One part of the vectors of a bundle: what an engine runs, by the bundle's address and a range of rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from twotower.core.engines.base import Task
from twotower.core.parts import writing_part
from twotower.core.records import FIRST_KNOWN
from twotower.data.prepare.database import parquet
from twotower.serving.bundle import Bundle
from twotower.serving.loaded import loaded
from twotower.serving.retriever import Retriever

SIDES = ("items", "users")


def encode_part(task: Task) -> None:
    """Write the vectors of one part of a side: the same rows wherever and however often it is run."""
    retriever, side = loaded(task["bundle"], task["digest"], task["device"]), task["side"]
    start, end = task["rows"]
    rows = rows_of(retriever.bundle, side)[start:end]
    vectors = vectors_of(retriever, side, rows, start)
    with writing_part(task, {"rows": len(rows)}) as path:
        copy_vectors(retriever.bundle, side, rows, vectors, path, {})


def rows_of(bundle: Bundle, side: str) -> Tensor:
    """Return the rows of a side that have vectors, in the order of the bundle."""
    return bundle.item_ids if side == "items" else torch.arange(FIRST_KNOWN, bundle.schema.num_users)


def vectors_of(retriever: Retriever, side: str, rows: Tensor, start: int = 0) -> NDArray[np.float32]:
    """Return the vectors of rows, float32 [rows, dim].

    Args:
        retriever: of the bundle.
        side: "items" or "users".
        rows: successive ones of `rows_of`.
        start: the place of the first of them.

    Raises:
        InputError: if the model has no vectors.
    """
    if side == "items":
        return retriever.item_vectors()[1][start : start + len(rows)]
    return retriever.user_vectors(retriever.bundle.user_vocabulary.ids(rows.tolist()))[1]


def copy_vectors(
    bundle: Bundle, side: str, rows: Tensor, vectors: NDArray[np.float32], to: Path, map_of: dict[str, NDArray[Any]]
) -> None:
    """Write ids, vectors and raw columns of rows; ``map_of`` has x, y, n0, d0, n1, … where there is a map."""
    import duckdb

    vocabulary = bundle.item_vocabulary if side == "items" else bundle.user_vocabulary
    columns: dict[str, NDArray[Any]] = {"row": rows.cpu().numpy()}
    columns |= {f"v{place}": np.ascontiguousarray(vectors[:, place]) for place in range(vectors.shape[1])}
    vector = ", ".join(f"made.v{place}" for place in range(vectors.shape[1]))
    more = ""
    if map_of:
        columns |= map_of
        nearest = [name for name in columns if name.startswith("n")]
        far = ", ".join(f"made.{name.replace('n', 'd', 1)}" for name in nearest)
        near = ", ".join(f"made.{name}" for name in nearest)
        more = f", made.x AS x, made.y AS y, {{'ids': [{near}], 'distances': [{far}]}} AS neighbors"
    taken = {"row", "id", "vector", *(("x", "y", "neighbors") if map_of else ())}
    source = parquet(vocabulary.path)
    with duckdb.connect() as connection:
        connection.register("made", columns)
        known = connection.execute(f"SELECT * FROM {source} LIMIT 0").description
        kept = [name for name, *_ in known if name.lower() not in taken]
        quoted = "".join(', known."' + name.replace('"', '""') + '"' for name in kept)
        target = str(to).replace("'", "''")
        connection.execute(
            f"COPY (SELECT known.id AS id, [{vector}]::FLOAT[] AS vector{more}{quoted} FROM made "
            f"JOIN {source} AS known ON known.row = made.row ORDER BY made.row) "
            f"TO '{target}' (FORMAT parquet)"
        )
