"""Vectors of a bundle as Parquet: ids, vectors and raw columns, for a vector store or a map of embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from twotower.core.engines.base import Engine
from twotower.core.engines.local import ThisProcess
from twotower.core.errors import InputError, unknown_name
from twotower.core.files import replacing_file
from twotower.core.parts import Job, prepare_parts, run_parts
from twotower.diagnosis.projections import principal, project
from twotower.serving.loaded import address_of, holding
from twotower.serving.neighbours import Neighbours, directions
from twotower.serving.retriever import TILE, Retriever
from twotower.serving.targets import end_parts, parquet_file, parts_of
from twotower.serving.vectors_part import SIDES, copy_vectors, encode_part, rows_of, vectors_of

PART = 16 * TILE
"""Rows of a part: what a stopped run loses at most."""
MOST_PROJECTED = 20_000
"""Rows up to which a map is drawn by t-SNE or UMAP; beyond, by the two main axes."""
NEIGHBOURS = 15
"""Nearest rows that a map notes of each row."""


def write_vectors(
    retriever: Retriever,
    to: Path | str,
    *,
    side: str = "items",
    atlas: bool = False,
    part: int = PART,
    engine: Engine | None = None,
) -> int:
    """Write one row an item (or known user): ``id``, ``vector`` (a list of float32) and the raw columns.

    Args:
        retriever: of the bundle.
        to: Parquet file, replaced whole; or a folder of parts, named without an ending or by an fsspec address, where
            ``manifest.json`` comes last and a stopped run goes on.
        side: "items" or "users".
        atlas: add ``x``, ``y`` and ``neighbors`` ({ids, distances} of the nearest rows by cosine), which Apple's
            embedding-atlas opens with ``--x x --y y --neighbors neighbors``; of one file alone.
        part: rows of a part.
        engine: runs the parts; None: this process. Its workers read the bundle, and write the parts, by the same paths
            or addresses as this process.

    Returns:
        The number of rows.

    Raises:
        InputError: if the model has no vectors, ``side`` is neither, or the name is neither of a Parquet file nor of a
            folder.
        ConnectionError: if the engine or an address cannot be reached.
    """
    if side not in SIDES:
        raise unknown_name("side", side, SIDES)
    file = parquet_file(to)
    rows = rows_of(retriever.bundle, side)
    if file is None or engine is not None:
        if atlas:
            raise InputError("a map needs all rows in one process: leave --atlas out, or write one file without engine")
        if not len(rows):
            raise InputError(f"{retriever.bundle.folder}: the bundle knows no {side}")
        vectors_of(retriever, side, rows[:1])  # a model without vectors says so before any work
        return _write_parts(retriever, to, file, side, rows, part, engine or ThisProcess())
    with replacing_file(file) as partial:
        vectors = vectors_of(retriever, side, rows)
        copy_vectors(
            retriever.bundle, side, rows, vectors, partial, _map_of(torch.from_numpy(vectors)) if atlas else {}
        )
    return len(rows)


def _write_parts(
    retriever: Retriever, to: Path | str, file: Path | None, side: str, rows: Tensor, part: int, engine: Engine
) -> int:
    """Write them by parts; returns the number of rows."""
    digest = retriever.bundle.manifest["digest"]
    same = {"bundle": address_of(retriever), "digest": digest, "device": str(retriever.bundle.device), "side": side}
    tasks = [{**same, "rows": [start, min(start + part, len(rows))]} for start in range(0, len(rows), part)]
    plan = {"bundle": digest, "vectors of": side, "rows": len(rows), "part": part}
    with parts_of(to, file) as store:
        prepare_parts(store, plan)
        with holding(retriever):
            notes, _ = run_parts(store, Job(plan, encode_part, tasks), engine, lambda done: None)
        end_parts(store, plan, notes, file)
    return sum(note["rows"] for note in notes)


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
