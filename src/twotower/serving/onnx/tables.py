"""Vocabularies of a bundle as JSON tables, and how each feature is read from raw columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb

from twotower.core.files import write_json
from twotower.core.schema import Side
from twotower.data.prepare.database import parquet
from twotower.data.prepare.spec import FeatureSpec
from twotower.data.prepare.vocabulary import feature_path, read_columns
from twotower.serving.bundle import Bundle


def write_tables(bundle: Bundle, side: Side, target: Path) -> list[dict[str, Any]]:
    """Write the rows of one side's ids and values as JSON objects, and return what a reader must know of each feature.

    A feature whose values the bundle has no table of comes back without columns: nothing can be given for it.
    """
    vocabulary = bundle.folder / "vocabulary"
    described: list[dict[str, Any]] = []
    with duckdb.connect() as connection:
        _write_rows(connection, vocabulary / f"{side}s.parquet", "id", target / f"{side}.ids.json")
        readers = read_columns(connection, vocabulary, side)
        for place, feature in enumerate(bundle.schema.features(side)):
            spec = readers.features.get(feature.name, FeatureSpec(feature.name, feature.kind))
            path = feature_path(vocabulary, side, feature.name)
            columns = list(spec.columns) or list(dict.fromkeys([spec.column or spec.name, feature.name]))
            row: dict[str, Any] = {
                "name": feature.name,
                "kind": feature.kind,
                "size": feature.size,
                "width": feature.width,
                "columns": columns if path.is_file() or not feature.is_discrete else [],
                "joined": bool(spec.columns),
                "separator": spec.separator,
                "form": readers.forms.get(feature.name, ""),
                "table": None,
            }
            if feature.is_discrete and path.is_file():
                row["table"] = f"feature_{place}"
                _write_rows(connection, path, "value", target / f"{side}.{row['table']}.json")
            described.append(row)
    write_json(target / f"{side}.features.json", described)
    return described


def _write_rows(connection: Any, source: Path, key: str, target: Path) -> None:
    rows = connection.execute(f"SELECT {key}, row FROM {parquet(source)} ORDER BY row").fetchall()
    target.write_text(json.dumps(dict(rows), ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
