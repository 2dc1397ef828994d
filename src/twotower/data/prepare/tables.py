"""Tables of users and items: rows for everyone in the catalogue, features as arrays, vocabularies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twotower.core.errors import InputError, shown
from twotower.core.records import FIRST_KNOWN
from twotower.core.schema import Feature, Side
from twotower.data.prepare.arrays import RowWriter
from twotower.data.prepare.database import column_sql, one
from twotower.data.prepare.encode import ROWS, cells_of, encode, is_vector, missing
from twotower.data.prepare.ids import id_text_of
from twotower.data.prepare.missing_words import tell_brackets
from twotower.data.prepare.read import Faults, Relation, load, relations
from twotower.data.prepare.spec import Entities, FeatureSpec
from twotower.data.prepare.values import form_of, text_of
from twotower.data.prepare.vocabulary import feature_path, write_ids, write_values

WIDTHS = {"multi_categorical": 16, "text": 32}
"""Values kept of a row when the spec does not say."""


@dataclass
class TableReport:
    """Hold what became of the rows of a table."""

    faults: Faults = field(default_factory=Faults)
    repeats: int = 0
    """Rows of an id that an earlier row has."""
    notes: list[str] = field(default_factory=list)
    """Treatments of single features, one sentence each."""


def read_table(
    connection: Any, side: Side, entities: Entities, folder: Path, work: Path, max_bad_share: float
) -> tuple[dict[str, str], TableReport]:
    """Fill the table ``user_table`` or ``item_table``: __id and the raw columns, the first row of each id.

    Returns:
        The SQL type of each raw column, and what became of the rows.

    Raises:
        InputError: if a file or column is missing, or too many rows are malformed.
    """
    report, types = TableReport(), dict[str, str]()
    for relation in relations(connection, entities.source, folder, work, entities.numbers):
        if not types:
            types = dict(relation.types)
            _check_columns(entities, relation)
            columns = ", ".join(f"{column_sql(name)} {kind}" for name, kind in types.items())
            connection.execute(f"CREATE TABLE loaded (__id VARCHAR, {columns}, __fault VARCHAR)")
        id_text = id_text_of(connection, relation, entities.id)
        names = ", ".join(column_sql(name) for name in types if relation.require(name))
        fault = f"CASE WHEN ({id_text}) IS NULL THEN 'no id' END"
        load(connection, "loaded", relation, f"{id_text}, {names}", fault, report.faults)
    report.faults.check(max_bad_share, f"table of {side}s")
    connection.execute(
        f"CREATE TABLE {side}_table AS SELECT * EXCLUDE (__fault) FROM loaded WHERE __fault IS NULL "
        "QUALIFY row_number() OVER (PARTITION BY __id ORDER BY rowid) = 1; DROP TABLE loaded"
    )
    kept = one(connection, f"SELECT count(*) FROM {side}_table")
    report.repeats = report.faults.rows - report.faults.malformed - kept
    return types, report


def drop_repeats(connection: Any, side: Side, report: TableReport) -> None:
    """Keep the first row of each id, where ids of several spellings have become one."""
    table = f"{side}_table"
    again = f"SELECT count(*) - count(DISTINCT __id) FROM {table}"
    report.repeats += one(connection, again)
    if one(connection, again):
        connection.execute(
            f"CREATE TABLE fewer AS SELECT * FROM {table} QUALIFY row_number() OVER (PARTITION BY __id ORDER BY rowid) "
            f"= 1; DROP TABLE {table}; ALTER TABLE fewer RENAME TO {table}"
        )


def _check_columns(entities: Entities, relation: Relation) -> None:
    wanted = [entities.id, *([entities.title] if entities.title else [])]
    for spec in entities.features:
        wanted += spec.columns or [spec.column or spec.name]
    for column in wanted:
        relation.require(column)


def write_table(
    connection: Any,
    side: Side,
    entities: Entities | None,
    types: dict[str, str],
    folder: Path,
    num_rows: int,
    report: TableReport,
    progress: Callable[[str], None],
    forms: dict[str, str],
) -> tuple[Feature, ...]:
    """Write the arrays and vocabularies of one side from ``users`` or ``items`` and its raw table.

    ``forms`` is told the canonical form of each feature's texts.

    Returns:
        The features, in the order of the spec.
    """
    catalogue, vocabulary = f"{side}_catalogue", folder / "vocabulary"
    if entities is None:
        connection.execute(f"CREATE VIEW {catalogue} AS SELECT row AS __row, id AS __id FROM {side}s")
    else:
        rest = "".join(f", t.{column_sql(name)}" for name in types if name != entities.id)
        connection.execute(
            f"CREATE TABLE {catalogue} AS SELECT r.row AS __row, r.id AS __id, r.id AS {column_sql(entities.id)}{rest} "
            f"FROM {side}s r LEFT JOIN {side}_table t ON r.id = t.__id ORDER BY r.row"
        )
        types = types | {entities.id: "VARCHAR"}
    write_ids(connection, catalogue, _shown(connection, catalogue, entities, types), vocabulary / f"{side}s.parquet")
    (folder / f"{side}s").mkdir()
    features = []
    for spec in entities.features if entities is not None else ():
        progress(f"encoding {side} feature {spec.name}")
        cells = cells_of(spec, types)
        assert cells is not None, "columns were checked when the table was read"
        if spec.kind in ("id", "categorical", "multi_categorical"):
            forms[spec.name] = form_of(connection, f"SELECT unnest({cells}) AS value FROM {catalogue}")
            cells = cells_of(spec, types, forms[spec.name])
            assert cells is not None
        path = feature_path(vocabulary, side, spec.name)
        feature = _feature(connection, catalogue, spec, cells, types, path, side, report)
        blank = missing(feature, FIRST_KNOWN)
        with RowWriter(folder / f"{side}s" / f"{spec.name}.npy", blank.dtype, (num_rows, *blank.shape[1:])) as array:
            array.append(blank)
            for start in range(FIRST_KNOWN, num_rows, ROWS):
                end = min(start + ROWS, num_rows)
                array.append(encode(connection, catalogue, cells, feature, path, start, end))
        features.append(feature)
    return tuple(features)


def _shown(connection: Any, catalogue: str, entities: Entities | None, types: dict[str, str]) -> dict[str, str]:
    """SQL of the raw columns by the name they are stored under: the title column is called title."""
    if entities is None:
        return {}
    shown = {}
    for name, kind in types.items():
        if name == entities.id:
            continue
        sql = column_sql(name)
        if kind == "JSON":
            nested = f"json_type({sql}) IN ('ARRAY', 'OBJECT')"
            lists = one(
                connection,
                f"SELECT count(*) > 0 AND bool_and(json_type({sql}) = 'ARRAY') FROM {catalogue} WHERE {nested}",
            )
            sql = f"TRY_CAST({sql} AS VARCHAR[])" if lists else text_of(name, kind)
        shown[name] = sql
    if entities.title and entities.title != entities.id and entities.title != "title":
        rest = {("title_" if name.lower() == "title" else name): sql for name, sql in shown.items()}
        shown = {"title" if name == entities.title else name: sql for name, sql in rest.items()}
    elif entities.title == entities.id and "title" not in shown:
        shown = {"title": "__id", **shown}
    return shown


def _feature(
    connection: Any,
    catalogue: str,
    spec: FeatureSpec,
    cells: str,
    types: dict[str, str],
    path: Path,
    side: Side,
    report: TableReport,
) -> Feature:
    """Describe a feature by what the catalogue holds, and write its vocabulary when it has one."""
    where = f"{side} feature {spec.name}"
    if spec.kind == "numeric":
        column = spec.column or spec.name
        given = f"({text_of(column, types[column])}) IS NOT NULL"
        known, unusable, mean, std = connection.execute(
            f"SELECT count(number), count(*) FILTER (given AND number IS NULL), avg(number), stddev_pop(number) "
            f"FROM (SELECT {cells} AS number, {given} AS given FROM {catalogue})"
        ).fetchall()[0]
        if not known:
            raise InputError(f"{where}: no finite number in column {shown(column)}; is it another kind?")
        if unusable:
            report.notes.append(f"{where}: {unusable:,} cells are not finite numbers and count as missing")
        return Feature(spec.name, "numeric", 1, mean=float(mean), std=float(std) or 1.0)
    if spec.kind == "vector":
        return _vector(connection, catalogue, spec, cells, where, report)
    size = write_values(connection, catalogue, cells, spec, path)
    if spec.kind not in WIDTHS:
        return Feature(spec.name, spec.kind, size)  # type: ignore[arg-type]
    if spec.kind == "multi_categorical":
        tell_brackets(connection, where, path, report.notes)
    limit = spec.width or WIDTHS[spec.kind]
    longest, cut = connection.execute(
        f"SELECT max(n), count(*) FILTER (n > {limit}) FROM (SELECT len({cells}) AS n FROM {catalogue})"
    ).fetchall()[0]
    if cut:
        report.notes.append(
            f"{where}: {cut:,} rows have more than {limit} values (at most {longest}); the rest is cut off"
        )
    return Feature(spec.name, spec.kind, size, width=max(1, min(limit, longest or 1)))  # type: ignore[arg-type]


def _vector(connection: Any, catalogue: str, spec: FeatureSpec, cells: str, where: str, report: TableReport) -> Feature:
    dim = spec.width or one(connection, f"SELECT mode(n) FROM (SELECT len({cells}) AS n FROM {catalogue}) WHERE n > 0")
    good = is_vector("cell", dim or 0)
    usable, unusable = connection.execute(
        f"SELECT count(*) FILTER ({good}), count(*) FILTER (len(cell) > 0 AND NOT coalesce({good}, false)) "
        f"FROM (SELECT {cells} AS cell FROM {catalogue})"
    ).fetchall()[0]
    if not usable:
        raise InputError(f"{where}: no row holds {dim or 'any'} finite numbers; check column, separator and width")
    if unusable:
        report.notes.append(f"{where}: {unusable:,} rows do not hold {dim} finite numbers and are zeros")
    return Feature(spec.name, "vector", int(dim))
