"""Texts of a bundle's items, and of a table of new ones, as vectors and keywords that a library makes."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from twotower.audit import keywords as text_keywords
from twotower.audit import text_encoder
from twotower.core.errors import InputError
from twotower.core.files import replacing_file
from twotower.core.records import FIRST_KNOWN
from twotower.core.schema import Feature
from twotower.data.dataset import Dataset
from twotower.data.prepare.database import column_sql, database, literal, quoted
from twotower.data.prepare.encode import cells_of, encode
from twotower.data.prepare.given import source_of
from twotower.data.prepare.read import relations
from twotower.data.prepare.spec import FeatureSpec
from twotower.data.prepare.vocabulary import feature_path, read_columns, write_values
from twotower.serving.bundle import Bundle
from twotower.serving.table import raw_columns

KEYWORDS = FeatureSpec(text_keywords.FEATURE, "multi_categorical", min_count=2)
"""A keyword of one item alone could tell nothing of another, so it is not learnt."""


class Readers(NamedTuple):
    """Hold what reads the texts beside the model: a sentence encoder ("": none) and a keyword library ("idf": none)."""

    encoder: str = ""
    keywords: str = text_keywords.IDF

    def columns(self) -> dict[str, str]:
        """Return the columns that they make, with the SQL type of each."""
        made = {text_encoder.FEATURE: "FLOAT[]"} if self.encoder else {}
        return made | ({text_keywords.FEATURE: "VARCHAR[]"} if self.keywords != text_keywords.IDF else {})

    def settings(self) -> dict[str, list[str]]:
        """Return the settings of the model "semantic" for these columns."""
        told = {text_encoder.FEATURE: "vectors", text_keywords.FEATURE: "keyword_features"}
        return {told[name]: [name] for name in self.columns()}


def enrich_bundle(bundle: Bundle, readers: Readers, folder: Path) -> Dataset:
    """Return the bundle's data set with a feature more for each column that ``readers`` make of its items' texts.

    Args:
        folder: an empty one for the vocabularies, that of keywords among them; it must outlive the data set.

    Raises:
        InputError: if items have no text, a feature has that name, no keyword stands in two texts, or a library or its
            model cannot be had.
    """
    for name in readers.columns():
        if name in {feature.name for feature in bundle.schema.item_features}:
            raise InputError(f"{bundle.folder}: has a feature '{name}' already")
    records = bundle.item_vocabulary.records(list(range(FIRST_KNOWN, bundle.schema.num_items)))
    texts = text_encoder.texts_of([record.columns for record in records], text_columns(bundle))
    shutil.copytree(bundle.folder / "vocabulary", folder / "vocabulary")
    dataset = replace(bundle.dataset, folder=folder)
    for name, cells in _read(texts, readers).items():
        if name == text_encoder.FEATURE:
            feature, values = Feature(name, "vector", len(cells[0])), np.asarray(cells, dtype=np.float32)
        else:
            feature, values = _numbered(cells, folder / "vocabulary")
        column = torch.from_numpy(np.concatenate([np.zeros((FIRST_KNOWN, values.shape[1]), values.dtype), values]))
        dataset = replace(
            dataset,
            schema=replace(dataset.schema, item_features=(*dataset.schema.item_features, feature)),
            item_features=dataset.item_features | {name: column.to(bundle.device)},
        )
    return dataset


def enrich_table(bundle: Bundle, table: Path, readers: Readers, to: Path) -> None:
    """Write the table to ``to``, Parquet, with the columns that ``readers`` make of its rows.

    Raises:
        InputError: if it has such a column, or as `enrich_bundle`.
    """
    made = _read(text_encoder.texts_of(raw_columns(table, bundle), text_columns(bundle)), readers)
    with tempfile.TemporaryDirectory(prefix="twotower-") as name, database(Path(name)) as connection:
        source = source_of(connection, table, bundle.folder / "vocabulary", "item", Path(name))
        relation = next(relations(connection, source, Path(), Path(name)))
        for column in made:
            if column in relation.types:
                raise InputError(f"{table}: has a column '{column}' already; give the table without it")
        read = _json(made, readers.columns(), Path(name))
        given = ", ".join(f"given.{column_sql(column)} AS {quoted(column)}" for column in relation.types)
        with replacing_file(to) as partial:
            connection.execute(
                f"COPY (SELECT {given}, made.* FROM {relation.sql} AS given "
                f"POSITIONAL JOIN {read} AS made) TO {literal(partial)} (FORMAT parquet)"
            )


def _read(texts: Sequence[str], readers: Readers) -> dict[str, list[Any]]:
    """Each column that ``readers`` make, one cell a text."""
    made: dict[str, list[Any]] = {}
    if readers.encoder:
        made[text_encoder.FEATURE] = text_encoder.encode_texts(texts, readers.encoder).tolist()
    if readers.keywords != text_keywords.IDF:
        made[text_keywords.FEATURE] = text_keywords.extract_keywords(texts, readers.keywords)
    return made


def _numbered(keywords: list[list[str]], vocabulary: Path) -> tuple[Feature, NDArray[Any]]:
    """The keywords by their rows of a vocabulary that is made of them, int64 [texts, most]."""
    path = feature_path(vocabulary, "item", KEYWORDS.name)
    with tempfile.TemporaryDirectory(prefix="twotower-") as name, database(Path(name)) as connection:
        read = _json({KEYWORDS.name: keywords}, {KEYWORDS.name: "VARCHAR[]"}, Path(name))
        column = f"{quoted(KEYWORDS.name)} AS {column_sql(KEYWORDS.name)}"
        connection.execute(f"CREATE TABLE loaded AS SELECT {column} FROM {read}")
        connection.execute("CREATE VIEW made AS SELECT rowid AS __row, * FROM loaded")
        cells = cells_of(KEYWORDS, {KEYWORDS.name: "VARCHAR[]"})
        assert cells is not None
        size = write_values(connection, "made", cells, KEYWORDS, path)
        if size == FIRST_KNOWN:
            raise InputError("no keyword stands in the texts of two items; use --keywords idf")
        feature = Feature(KEYWORDS.name, "multi_categorical", size, width=text_keywords.MOST)
        return feature, encode(connection, "made", cells, feature, path, 0, len(keywords))


def _json(columns: dict[str, list[Any]], types: dict[str, str], work: Path) -> str:
    """SQL of a table of these columns."""
    file = work / "made.jsonl"
    rows = zip(*columns.values(), strict=True)
    file.write_text("".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows), encoding="utf-8")
    kinds = ", ".join(f"{name}: '{types[name]}'" for name in columns)
    return f"read_json({literal(file)}, format='newline_delimited', columns={{{kinds}}})"


def text_columns(bundle: Bundle) -> list[str]:
    """Return the raw columns that the bundle's texts came from."""
    names = [feature.name for feature in bundle.schema.item_features if feature.kind == "text"]
    if not names:
        raise InputError(f"{bundle.folder}: its items have no feature of kind 'text' to read")
    with tempfile.TemporaryDirectory(prefix="twotower-") as name, database(Path(name)) as connection:
        stored = read_columns(connection, bundle.folder / "vocabulary", "item").features
    return list(dict.fromkeys((stored[name].column if name in stored else "") or name for name in names))
