"""Vocabularies as Parquet: ids with their raw columns, values of features, and the columns that both came from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twotower.core.records import FIRST_KNOWN
from twotower.core.schema import Side
from twotower.data.prepare.database import literal, one, parquet, quoted
from twotower.data.prepare.spec import Entities, FeatureSpec

COLUMNS = "columns.parquet"
"""Which raw column each feature was read from, so that a new table is read in the same way."""


@dataclass(frozen=True)
class Columns:
    """Describe how one side's raw table was read."""

    id: str
    """Column of the id."""
    features: dict[str, FeatureSpec]
    forms: dict[str, str]
    """Canonical form of the texts of each feature, and of the ids under the name ''."""
    named: bool
    """Whether there was a raw table that named the column of the id."""


def feature_path(vocabulary: Path, side: Side, feature: str) -> Path:
    """Return the Parquet file of a feature's values."""
    return vocabulary / f"{side}.{feature}.parquet"


def write_values(connection: Any, table: str, cells: str, spec: FeatureSpec, path: Path) -> int:
    """Number the values of a feature, write row, value and count, and return the size with padding and unknown.

    The most frequent value is row 2; ties stand in text order.
    """
    most = spec.max_values or (50_000 if spec.kind == "text" else 0)
    connection.execute(
        f"COPY (SELECT row_number() OVER (ORDER BY count DESC, value) + {FIRST_KNOWN - 1} AS row, value, count "
        f"FROM (SELECT value, count(*) AS count FROM (SELECT unnest({cells}) AS value FROM {table}) "
        f"GROUP BY value HAVING count(*) >= {spec.min_count}) ORDER BY row {f'LIMIT {most}' if most else ''}) "
        f"TO {literal(path)} (FORMAT parquet)"
    )
    return int(one(connection, f"SELECT count(*) FROM {parquet(path)}")) + FIRST_KNOWN


def write_ids(connection: Any, table: str, columns: dict[str, str], path: Path) -> None:
    """Write row, id and the raw columns; ``columns`` is the SQL of each by the name it is stored under."""
    taken = {"row", "id"}
    parts = []
    for name, sql in columns.items():
        while name.lower() in taken:
            name += "_"
        taken.add(name.lower())
        parts.append(f"{sql} AS {quoted(name)}")
    chosen = ", ".join(["__row AS row", "__id AS id", *parts])
    connection.execute(f"COPY (SELECT {chosen} FROM {table} ORDER BY __row) TO {literal(path)} (FORMAT parquet)")


def write_columns(
    connection: Any, tables: dict[Side, Entities | None], forms: dict[Side, dict[str, str]], vocabulary: Path
) -> None:
    """Write which raw columns the features of both sides came from, and the form of their texts.

    A side without a table has the form of its ids alone, under no column.
    """
    connection.execute(
        "CREATE TABLE feature_columns "
        "(side VARCHAR, feature VARCHAR, kind VARCHAR, columns VARCHAR[], separator VARCHAR, form VARCHAR)"
    )
    for side, table in tables.items():
        rows: list[tuple[str, str, str, list[str], str]] = [(side, "", "id", [] if table is None else [table.id], "")]
        for spec in table.features if table is not None else ():
            rows.append((side, spec.name, spec.kind, list(spec.columns) or [spec.column or spec.name], spec.separator))
        for row in rows:
            values = (*row, forms[side].get(row[1], ""))
            connection.execute("INSERT INTO feature_columns VALUES (?, ?, ?, ?, ?, ?)", values)
    connection.execute(f"COPY feature_columns TO {literal(vocabulary / COLUMNS)} (FORMAT parquet)")


def read_columns(connection: Any, vocabulary: Path, side: Side) -> Columns:
    """Read what `write_columns` wrote of one side.

    Without the file, features are read from columns of their own names.
    """
    path = vocabulary / COLUMNS
    rows: list[tuple[str, str, list[str], str]] = []
    forms: dict[str, str] = {}
    if path.is_file():
        found = connection.execute(f"FROM {parquet(path)} WHERE side = {literal(side)}").fetchall()
        rows = [tuple(row[1:5]) for row in found]
        forms = {row[1]: row[5] for row in found if len(row) > 5}  # folders of before know no form
    features = {
        name: FeatureSpec(
            name,
            kind,
            column="" if len(columns) > 1 else columns[0],
            columns=tuple(columns) if len(columns) > 1 else (),
            separator=separator,
        )
        for name, kind, columns, separator in rows
        if name
    }
    ids = [columns[0] for name, _, columns, _ in rows if not name and columns]
    return Columns(ids[0] if ids else "id", features, forms, bool(ids))
