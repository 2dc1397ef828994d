"""A table of items with some cells filled, written in the format that it came in."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from twotower.core.errors import InputError
from twotower.core.files import replacing_file
from twotower.data.prepare.database import column_sql, database, literal, quoted
from twotower.data.prepare.read import Faults, load, relations
from twotower.data.prepare.spec import Source
from twotower.data.prepare.values import text_of

Cells: TypeAlias = Sequence[list[str] | None]
"""Texts for each row of the table; None: the cell stays as it is."""


def write_filled(table: Path, to: Path, columns: Mapping[str, tuple[Cells, str]]) -> None:
    """Copy ``table`` to ``to``, with the cells given in place of those that were there.

    Args:
        table: CSV, TSV, JSON lines or Parquet.
        to: the file to write; its extensions must be those of ``table``.
        columns: by name: the cells, and what parts several texts in one cell; empty: a cell holds one text. A column
            that the table lacks is added at its end.

    Raises:
        InputError: if the extensions differ, the two are one file, or the table cannot be read.
    """
    if [suffix.lower() for suffix in to.suffixes[-2:]] != [suffix.lower() for suffix in table.suffixes[-2:]]:
        raise InputError(f"{to}: name it *{''.join(table.suffixes[-2:])}, as {table} is: the format stays")
    if to.exists() and to.resolve() == table.resolve():
        raise InputError(f"{to}: would overwrite the table that is read; name another file")
    with tempfile.TemporaryDirectory(prefix="twotower-") as name, database(Path(name)) as connection:
        work = Path(name)
        (relation,) = relations(connection, Source((str(table),)), Path(), work)
        for column in columns:
            twin = next((name for name in relation.types if name != column and name.lower() == column.lower()), None)
            if twin is not None:
                raise InputError(f"{table}: column '{twin}' must be called '{column}', as in training; rename it")
        names = ", ".join(f"{column_sql(column)} {kind}" for column, kind in relation.types.items())
        connection.execute(f"CREATE TABLE loaded ({names}, __fault VARCHAR)")
        faults = Faults()
        load(connection, "loaded", relation, ", ".join(map(column_sql, relation.types)), "NULL", faults)
        faults.check(0.0, str(table))
        _load_cells(connection, work / "cells.jsonl", columns)
        parts = []
        for column in [*relation.types, *(column for column in columns if column not in relation.types)]:
            if column not in columns:
                parts.append(f"loaded.{column_sql(column)} AS {quoted(column)}")
                continue
            separator = columns[column][1]
            given = f"__cell{list(columns).index(column)}"
            lists = bool(separator) and relation.format in ("parquet", "jsonl")
            value = given if lists else f"array_to_string({given}, {literal(separator)})"
            if relation.format == "jsonl":
                value = f"to_json({value})"
            if column in relation.types:
                value = f"CASE WHEN {given} IS NULL THEN {_kept(column, relation, lists, separator)} ELSE {value} END"
            parts.append(f"{value} AS {quoted(column)}")
        with replacing_file(to) as partial:
            connection.execute(
                f"COPY (SELECT {', '.join(parts)} FROM loaded JOIN cells ON cells.__row = loaded.rowid "
                f"ORDER BY loaded.rowid) TO {literal(partial)} ({_options(relation.format, to)})"
            )


def _load_cells(connection: Any, file: Path, columns: Mapping[str, tuple[Cells, str]]) -> None:
    rows = zip(*(cells for cells, _ in columns.values()), strict=True)
    with file.open("w", encoding="utf-8") as out:
        for number, row in enumerate(rows):
            out.write(json.dumps({"__row": number} | {f"__cell{place}": cell for place, cell in enumerate(row)}) + "\n")
    kinds = ", ".join(f"__cell{place}: 'VARCHAR[]'" for place in range(len(columns)))
    connection.execute(
        f"CREATE TABLE cells AS SELECT * FROM read_json({literal(file)}, format='newline_delimited', "
        f"columns={{__row: 'BIGINT', {kinds}}})"
    )


def _kept(column: str, relation: Any, lists: bool, separator: str) -> str:
    """SQL of a cell that stays, in the type of those that are filled."""
    kind = relation.types[column]
    if relation.format == "jsonl":
        return f"loaded.{column_sql(column)}"
    if not lists:
        return text_of(column, kind)
    if kind.endswith("]"):
        return f"{column_sql(column)}::VARCHAR[]"
    return f"string_split({text_of(column, kind)}, {literal(separator)})"


def _options(format: str, to: Path) -> str:
    packed = ", COMPRESSION gzip" if to.suffix.lower() == ".gz" else ""
    return {
        "csv": f"FORMAT csv, HEADER, DELIMITER ','{packed}",
        "tsv": f"FORMAT csv, HEADER, DELIMITER '\t'{packed}",
        "jsonl": f"FORMAT json{packed}",
        "parquet": "FORMAT parquet",
    }[format]
