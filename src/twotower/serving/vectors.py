"""Vectors of a bundle as a Parquet file: ids, vectors and raw columns, for a vector store or a map of embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from twotower.core.errors import InputError, unknown_name
from twotower.core.files import replacing_file
from twotower.core.records import FIRST_KNOWN
from twotower.diagnosis.projections import principal, project
from twotower.serving.neighbours import Neighbours, directions
from twotower.serving.retriever import Retriever

SIDES = ("items", "users")
MOST_PROJECTED = 20_000
"""Rows up to which a map is drawn by t-SNE or UMAP; beyond, by the two main axes."""
NEIGHBOURS = 15
"""Nearest rows that a map notes of each row."""


def write_vectors(retriever: Retriever, to: Path | str, *, side: str = "items", atlas: bool = False) -> int:
    """Write one row an item (or known user): ``id``, ``vector`` (a list of float32) and the raw columns.

    Args:
        retriever: of the bundle.
        to: Parquet file, replaced whole.
        side: "items" or "users".
        atlas: add ``x``, ``y`` and ``neighbors`` ({ids, distances} of the nearest rows by cosine), which Apple's
            embedding-atlas opens with ``--x x --y y --neighbors neighbors``.

    Returns:
        The number of rows.

    Raises:
        InputError: if the model has no vectors, ``side`` is neither, or the file's name does not end in .parquet.
    """
    import duckdb

    to = Path(to)
    if side not in SIDES:
        raise unknown_name("side", side, SIDES)
    if to.suffix.lower() != ".parquet":
        raise InputError(f"{to}: name it *.parquet")
    bundle = retriever.bundle
    vocabulary = bundle.item_vocabulary if side == "items" else bundle.user_vocabulary
    if side == "items":
        rows = bundle.item_ids
        ids, vectors = retriever.item_vectors()
    else:
        rows = torch.arange(FIRST_KNOWN, bundle.schema.num_users)
        ids, vectors = retriever.user_vectors(vocabulary.ids(rows.tolist()))
    columns: dict[str, NDArray[Any]] = {"row": rows.cpu().numpy()}
    columns |= {f"v{place}": np.ascontiguousarray(vectors[:, place]) for place in range(vectors.shape[1])}
    vector = ", ".join(f"made.v{place}" for place in range(vectors.shape[1]))
    more = ""
    if atlas:
        columns |= _map_of(torch.from_numpy(vectors))
        nearest = [name for name in columns if name.startswith("n")]
        far = ", ".join(f"made.{name.replace('n', 'd', 1)}" for name in nearest)
        near = ", ".join(f"made.{name}" for name in nearest)
        more = f", made.x AS x, made.y AS y, {{'ids': [{near}], 'distances': [{far}]}} AS neighbors"
    taken = {"row", "id", "vector", *(("x", "y", "neighbors") if atlas else ())}
    source = str(vocabulary.path).replace("'", "''")
    with duckdb.connect() as connection, replacing_file(to) as partial:
        connection.register("made", columns)
        known = connection.execute(f"SELECT * FROM read_parquet('{source}') LIMIT 0").description
        kept = [name for name, *_ in known if name.lower() not in taken]
        quoted = "".join(', known."' + name.replace('"', '""') + '"' for name in kept)
        target = str(partial).replace("'", "''")
        connection.execute(
            f"COPY (SELECT known.id AS id, [{vector}]::FLOAT[] AS vector{more}{quoted} FROM made "
            f"JOIN read_parquet('{source}') AS known ON known.row = made.row ORDER BY made.row) "
            f"TO '{target}' (FORMAT parquet)"
        )
    return len(ids)


def _map_of(vectors: torch.Tensor) -> dict[str, NDArray[Any]]:
    """Two coordinates a row, and the places and cosine distances of its nearest rows: n0, d0, n1, …"""
    small = len(vectors) <= MOST_PROJECTED
    flat = project(vectors)[0][-1].flat if small else principal(vectors, 2)[0]
    places = torch.arange(len(vectors))
    found = Neighbours(directions(vectors), places).of_ids(places, min(NEIGHBOURS, len(vectors) - 1))
    columns: dict[str, NDArray[Any]] = {"x": flat[:, 0].float().numpy(), "y": flat[:, 1].float().numpy()}
    for place in range(found.ids.shape[1]):
        columns[f"n{place}"] = found.ids[:, place].numpy()
        columns[f"d{place}"] = (1.0 - found.scores[:, place]).float().numpy()
    return columns
