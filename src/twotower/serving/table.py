"""Files of items, new or known, as directions to find neighbours of."""

from __future__ import annotations

import json
import logging
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.files import read_json
from twotower.core.records import UNKNOWN, Features, Items
from twotower.core.states import join
from twotower.data.prepare.database import database
from twotower.data.prepare.encode import missing, prepare_table
from twotower.data.prepare.given import source_of
from twotower.data.prepare.read import relations
from twotower.data.prepare.vocabulary import read_columns
from twotower.models.encode import TILE, inference
from twotower.serving.bundle import Bundle
from twotower.serving.columns import plain
from twotower.serving.neighbours import Neighbours, directions

log = logging.getLogger(__name__)


class Table(NamedTuple):
    """Hold the rows of a file: outside ids, catalogue rows (1 where the catalogue has no such id) and directions."""

    ids: list[str]
    rows: Tensor
    vectors: Tensor


def read_table(path: Path, bundle: Bundle, catalogue: Neighbours) -> Table:
    """Read a file of items: a known id has its stored state, any other goes through the item tower by its columns.

    Raises:
        InputError: if the file cannot be read as items, or its new rows tell the model nothing.
    """
    ids, features = prepare_table(path, bundle.schema, bundle.folder / "vocabulary", "item")
    known = bundle.item_vocabulary.known(ids)
    rows = torch.tensor([known.get(id, UNKNOWN) for id in ids], device=bundle.device)
    blank = {feature.name: torch.from_numpy(missing(feature, 1)) for feature in bundle.schema.item_features}
    tiles = [slice(start, start + TILE) for start in range(0, len(ids), TILE)]
    new = rows == UNKNOWN
    with inference(bundle.model):
        states = [bundle.model.encode_items(_items(rows[at], {k: v[at] for k, v in features.items()})) for at in tiles]
        vectors = directions(join(states))
        nothing = directions(bundle.model.encode_items(_items(rows.new_tensor([UNKNOWN]), blank)))
        vectors[~new] = catalogue.vectors(rows[~new])
    if new.any() and torch.allclose(vectors[new], nothing.expand_as(vectors[new]), rtol=0, atol=1e-6):
        raise InputError(
            f"{path}: the model makes the same of every new item as of one without columns: it reads no item features, "
            "or the file has none of their columns"
        )
    log.info("%s: %d of %d rows are known by their id and keep their stored state", path, int((~new).sum()), len(ids))
    return Table(ids, rows, vectors)


def raw_columns(path: Path, bundle: Bundle) -> list[dict[str, Any]]:
    """Return the columns of each row of a file that `read_table` has read, as plain values and without the id."""
    with tempfile.TemporaryDirectory(prefix="twotower-") as name, database(Path(name)) as connection:
        id = read_columns(connection, bundle.folder / "vocabulary", "item").id
        source = source_of(connection, path, bundle.folder / "vocabulary", "item", Path(name))
        relation = next(relations(connection, source, Path(), Path(name)))
        types = relation.types
        rows = connection.execute(f"SELECT * FROM {relation.sql} AS source").fetchall()
    left_out = id if id in types else "id"
    names = _stored_names(list(types), bundle)
    return [
        {
            names[column]: json.loads(value) if kind == "JSON" and value is not None else plain(value)
            for (column, kind), value in zip(types.items(), row, strict=True)
            if column != left_out
        }
        for row in rows
    ]


def _stored_names(columns: list[str], bundle: Bundle) -> dict[str, str]:
    """The name that each column has in the catalogue, where that of titles is called ``title``."""
    spec = read_json(bundle.folder / "data.json").get("spec")
    items = spec.get("items") if isinstance(spec, dict) else None
    title, id = (items.get("title"), items.get("id")) if isinstance(items, dict) else (None, None)
    names = {column: column for column in columns}
    if isinstance(title, str) and title in names and title not in ("title", id):
        names |= {column: "title_" for column in columns if column.lower() == "title"} | {title: "title"}
    return names


def _items(rows: Tensor, features: Features) -> Items:
    return Items(rows, {name: column.to(rows.device) for name, column in features.items()})
