"""Cells of a table to feature arrays, by stored vocabularies: the same when preparing, serving and diagnosing."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from twotower.core.errors import InputError, shown
from twotower.core.records import UNKNOWN, Features
from twotower.core.schema import Feature, Schema, Side
from twotower.data.prepare.database import column_sql, database, one, parquet
from twotower.data.prepare.given import source_of
from twotower.data.prepare.ids import id_text_of
from twotower.data.prepare.read import Faults, load, relations
from twotower.data.prepare.spec import FeatureSpec, Source
from twotower.data.prepare.text import words_sql
from twotower.data.prepare.values import canonical, floats_of, number_of, plain_text, text_of, words_of
from twotower.data.prepare.vocabulary import feature_path, read_columns

ROWS = 1 << 16
"""Rows of a table that are in memory at once."""

Types = Mapping[str, str]
"""SQL type of each column of a table."""

logger = logging.getLogger(__name__)


def cells_of(spec: FeatureSpec, types: Types, form: str = "") -> str | None:
    """Return SQL for a feature's cells: a list of texts, a number or a list of floats.

    None when the table has no such column.

    NULL, or an empty list, is a missing cell. ``form`` is what `values.form_of` says of the texts.
    """
    if spec.columns:
        if not all(column in types for column in spec.columns):
            return None
        numbers = ", ".join(f"TRY_CAST({number_of(name, types[name])} AS FLOAT)" for name in spec.columns)
        return f"CASE WHEN coalesce({numbers}) IS NOT NULL THEN [{numbers}] END"
    column = next((name for name in (spec.column, spec.name) if name in types), None)
    if column is None:
        return None
    kind = types[column]
    if spec.kind == "numeric":
        return f"TRY_CAST({number_of(column, kind)} AS FLOAT)"
    if spec.kind == "vector":
        return floats_of(column, kind, spec.separator or " ")
    if spec.kind == "multi_categorical":
        words = words_of(column, kind, spec.separator or "|")
        return f"[{canonical('part', form)} FOR part IN {words}]" if form else words
    if spec.kind == "text":
        return words_sql(f"({text_of(column, kind)})")
    return f"[{canonical('word', form)} FOR word IN [{text_of(column, kind)}] IF word IS NOT NULL]"


def is_vector(cells: str, dim: int) -> str:
    """Return SQL that is true where a list of floats has ``dim`` finite numbers."""
    return f"len({cells}) = {dim} AND len([x FOR x IN {cells} IF isfinite(x)]) = {dim}"


def missing(feature: Feature, rows: int) -> NDArray[Any]:
    """Return which rows lack a value: 0 for what is discrete, NaN for a number, zeros for a vector."""
    if feature.kind == "numeric":
        return np.full(rows, np.nan, dtype=np.float32)
    if feature.kind == "vector":
        return np.zeros((rows, feature.size), dtype=np.float32)
    shape = (rows, feature.width) if feature.kind in ("multi_categorical", "text") else (rows,)
    return np.zeros(shape, dtype=np.int64)


def encode(
    connection: Any, table: str, cells: str | None, feature: Feature, vocabulary: Path | None, start: int, end: int
) -> NDArray[Any]:
    """Encode the rows ``start`` to ``end`` of a feature, from ``table`` whose column __row numbers them.

    A missing cell is 0, a value that ``vocabulary`` (Parquet of row and value) does not hold is 1.
    """
    array = missing(feature, end - start)
    if cells is None:
        return array
    cut = f"SELECT __row - {start} AS spot, {cells} AS cell FROM {table} WHERE __row >= {start} AND __row < {end}"
    if feature.kind == "numeric":
        found = connection.execute(f"SELECT spot, cell FROM ({cut}) WHERE cell IS NOT NULL").fetchnumpy()
        array[found["spot"]] = found["cell"]
        return array
    if feature.kind == "vector":
        whole = f"SELECT spot, cell FROM ({cut}) WHERE {is_vector('cell', feature.size)}"
        found = connection.execute(
            f"SELECT spot, unnest(cell) AS value, generate_subscripts(cell, 1) - 1 AS place FROM ({whole})"
        ).fetchnumpy()
        array[found["spot"], found["place"]] = found["value"]
        return array
    found = connection.execute(
        f"WITH kept AS (SELECT spot, cell[1:{feature.width}] AS cell FROM ({cut})), "
        "words AS (SELECT spot, unnest(cell) AS word, generate_subscripts(cell, 1) - 1 AS place FROM kept) "
        f"SELECT spot, place, coalesce(known.row, {UNKNOWN}) AS row FROM words "
        f"LEFT JOIN {parquet(vocabulary)} known ON known.value = words.word"
    ).fetchnumpy()
    if array.ndim == 1:
        array[found["spot"]] = found["row"]
    else:
        array[found["spot"], found["place"]] = found["row"]
    return array


def prepare_table(
    table: Path | str | Sequence[Mapping[str, Any]], schema: Schema, vocabulary: Path, side: Side
) -> tuple[list[str], Features]:
    """Encode a new table of users or items as the training data was.

    Columns are looked for by the names of the raw table that the vocabularies came from, then by the feature's name. A
    feature without a column is missing in every row, and one whose values are all unknown tells the model nothing: both
    with a warning in the log of this module.

    Args:
        table: a CSV, TSV, JSON lines or Parquet file, or rows by column name.
        schema: of the data set or bundle.
        vocabulary: its folder ``vocabulary``.
        side: whether rows are users or items.

    Returns:
        The outside id of each row, in order, and the features, one row for each.

    Raises:
        InputError: if the file cannot be read, or a row has no id.
    """
    with tempfile.TemporaryDirectory(prefix="twotower-") as name, database(Path(name)) as connection:
        work, readers = Path(name), read_columns(connection, vocabulary, side)
        what = str(table) if isinstance(table, Path | str) else f"the {side}"
        if not isinstance(table, Path | str):
            rows, table = table, work / "rows.jsonl"
            table.write_text(
                "".join(json.dumps(dict(row), default=plain_text) + "\n" for row in rows), encoding="utf-8"
            )
            source = Source((str(table),))
        else:
            source = source_of(connection, Path(table), vocabulary, side, work)
        specs = [readers.features.get(f.name, FeatureSpec(f.name, f.kind)) for f in schema.features(side)]
        numbers = [column for spec in specs for column in spec.numbers]
        types, ids = _read(connection, Path(table), source, readers.id, readers.forms.get("", ""), work, numbers)
        features: Features = {}
        for feature, spec in zip(schema.features(side), specs, strict=True):
            cells = cells_of(spec, types, readers.forms.get(feature.name, ""))
            if cells is None:
                logger.warning("%s: no column for feature '%s': missing in every row", table, feature.name)
            elif unusable := _unusable(connection, cells, spec, types, feature):
                logger.warning("%s: feature '%s': %s", what, feature.name, unusable)
            path = feature_path(vocabulary, side, feature.name)
            blocks = [
                encode(connection, "given", cells, feature, path, start, min(start + ROWS, len(ids)))
                for start in range(0, len(ids), ROWS)
            ]
            column = np.concatenate(blocks)
            if feature.is_discrete and (column == UNKNOWN).any() and not (column > UNKNOWN).any():
                of = shown(spec.column or spec.name)
                logger.warning("%s: training had none of the values of column %s: all are unknown", what, of)
            features[feature.name] = torch.from_numpy(column)
    return ids, features


def _unusable(connection: Any, cells: str, spec: FeatureSpec, types: Types, feature: Feature) -> str:
    """How many cells of numbers hold no number, and what they become; '' where there are none."""
    columns = [name for name in spec.numbers if name in types]
    if not columns:
        return ""
    given = " OR ".join(f"({text_of(name, types[name])}) IS NOT NULL" for name in columns)
    good = "cell IS NOT NULL" if feature.kind == "numeric" else f"coalesce({is_vector('cell', feature.size)}, false)"
    count = one(
        connection,
        f"SELECT count(*) FROM (SELECT {cells} AS cell FROM given WHERE {given}) WHERE NOT ({good})",
    )
    if not count:
        return ""
    if feature.kind == "numeric":
        return f"cells that are no finite number: {count:,}; they count as missing"
    return f"rows that do not hold {feature.size} finite numbers: {count:,}; they are zeros"


def _read(
    connection: Any, path: Path, source: Source, id_column: str, form: str, work: Path, numbers: Sequence[str]
) -> tuple[dict[str, str], list[str]]:
    """Fill the table ``given`` with the file's rows and __row; returns column types and ids."""
    faults = Faults()
    types: dict[str, str] = {}
    for relation in relations(connection, source, Path(), work, numbers):
        types = relation.types
        key = id_column if id_column in types or "id" not in types else "id"
        id_text = canonical(id_text_of(connection, relation, key), form)
        columns = ", ".join(f"{column_sql(column)} {kind}" for column, kind in types.items())
        connection.execute(f"CREATE TABLE loaded (__id VARCHAR, {columns}, __fault VARCHAR)")
        names = ", ".join(map(column_sql, types))
        load(
            connection,
            "loaded",
            relation,
            f"{id_text}, {names}",
            f"CASE WHEN ({id_text}) IS NULL THEN 'no id' END",
            faults,
        )
    faults.check(0.0, str(path))
    connection.execute("CREATE VIEW given AS SELECT rowid AS __row, * FROM loaded")
    ids = connection.execute("SELECT __id FROM loaded ORDER BY rowid").fetchnumpy()["__id"]
    if len(ids) != one(connection, "SELECT count(*) FROM loaded"):
        raise InputError(f"{path}: changed while it was read")
    return types, [str(id) for id in ids]
