"""A bundle's items, and a table of new ones, by the vectors that a sentence encoder makes of their texts."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.files import replacing_file
from twotower.core.records import FIRST_KNOWN
from twotower.core.schema import Feature
from twotower.data.dataset import Dataset
from twotower.data.prepare_database import database, literal
from twotower.data.prepare_read import relations
from twotower.data.spec import Source
from twotower.data.vocabulary import read_columns
from twotower.recipes.text_encoder import FEATURE, encode_texts, texts_of
from twotower.serving.bundle import Bundle
from twotower.serving.table import raw_columns


def encode_bundle(bundle: Bundle, encoder: str) -> Dataset:
    """The bundle's data set with a feature of kind "vector" more: its items' raw texts, encoded.

    Raises:
        InputError: if items have no text, one of the features has that name, or the encoder cannot be had.
    """
    schema = bundle.schema
    if FEATURE in {feature.name for feature in schema.item_features}:
        raise InputError(f"{bundle.folder}: has a feature '{FEATURE}' already")
    records = bundle.item_vocabulary.records(list(range(FIRST_KNOWN, schema.num_items)))
    found = encode_texts(texts_of([record.columns for record in records], _text_columns(bundle)), encoder)
    vectors = torch.cat([torch.zeros(FIRST_KNOWN, found.shape[1]), found]).to(bundle.device)
    features = (*schema.item_features, Feature(FEATURE, "vector", found.shape[1]))
    return replace(
        bundle.dataset,
        schema=replace(schema, item_features=features),
        item_features=bundle.dataset.item_features | {FEATURE: vectors},
    )


def encode_table(bundle: Bundle, table: Path, encoder: str, to: Path) -> Tensor:
    """The vectors of a table's rows; the table is written to ``to``, Parquet, with them in a column more.

    Raises:
        InputError: if every text is blank, or the encoder cannot be had.
    """
    vectors = encode_texts(texts_of(raw_columns(table, bundle), _text_columns(bundle)), encoder)
    with tempfile.TemporaryDirectory(prefix="twotower-") as name, database(Path(name)) as connection:
        lines = Path(name) / "vectors.jsonl"
        lines.write_text("".join(json.dumps({"v": row}) + "\n" for row in vectors.tolist()), encoding="utf-8")
        (relation,) = relations(connection, Source((str(table),)), Path(), Path(name))
        read = f"read_json({literal(lines)}, format='newline_delimited', columns={{v: 'FLOAT[]'}})"
        with replacing_file(to) as partial:
            connection.execute(
                f"COPY (SELECT given.*, v AS {FEATURE} FROM {relation.sql} AS given "
                f"POSITIONAL JOIN {read} AS made) TO {literal(partial)} (FORMAT parquet)"
            )
    return vectors


def _text_columns(bundle: Bundle) -> list[str]:
    """The raw columns that the bundle's texts came from."""
    names = [feature.name for feature in bundle.schema.item_features if feature.kind == "text"]
    if not names:
        raise InputError(f"{bundle.folder}: its items have no feature of kind 'text' to encode")
    with tempfile.TemporaryDirectory(prefix="twotower-") as name, database(Path(name)) as connection:
        stored = read_columns(connection, bundle.folder / "vocabulary", "item").features
    return list(dict.fromkeys((stored[name].column if name in stored else "") or name for name in names))
