"""Table of items with some cells filled, written in the format that it came in."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from twotower.core.errors import InputError
from twotower.core.files import replacing_file
from twotower.core.schema import Side
from twotower.data.prepare.database import column_sql, database, literal, quoted
from twotower.data.prepare.given import source_of
from twotower.data.prepare.read import Faults, Relation, load, relations
from twotower.data.prepare.values import text_of

UTF8 = ("utf-8", "utf8", "utf-8-sig", "ascii")
Cells: TypeAlias = Sequence[list[str] | None]
"""Texts for each row of the table; None: the cell stays as it is."""


def write_filled(
    table: Path, to: Path, columns: Mapping[str, tuple[Cells, str]], *, vocabulary: Path, side: Side = "item"
) -> None:
    """Copy ``table`` to ``to``, with the cells given in place of those that were there.

    Args:
        table: CSV, TSV, JSON lines or Parquet, read as the training table was; the copy has its separator and encoding.
        to: the file to write; its extensions must be those of ``table``.
        columns: by name: the cells, and what parts several texts in one cell; empty: a cell holds one text. A column
            that the table lacks is added at its end.
        vocabulary: of the bundle.
        side: whether rows are users or items.

    Raises:
        InputError: if the extensions differ, the two are one file, or the table cannot be read.
    """
    if [suffix.lower() for suffix in to.suffixes[-2:]] != [suffix.lower() for suffix in table.suffixes[-2:]]:
        raise InputError(f"{to}: name it *{''.join(table.suffixes[-2:])}, as {table} is: the format stays")
    if to.exists() and to.resolve() == table.resolve():
        raise InputError(f"{to}: would overwrite the table that is read; name another file")
    with tempfile.TemporaryDirectory(prefix="twotower-") as name, database(Path(name)) as connection:
        work = Path(name)
        source = source_of(connection, table, vocabulary, side, work)
        relation = next(relations(connection, source, Path(), work))
        if source.encoding.lower() not in UTF8 and to.suffix.lower() == ".gz":
            raise InputError(
                f"{to}: a packed table is written in UTF-8, this one is {source.encoding}; unpack it first"
            )
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
                f"ORDER BY loaded.rowid) TO {literal(partial)} ({_options(relation, to)})"
            )
            if relation.format != "parquet" and source.encoding.lower() not in UTF8:
                _encode(partial, source.encoding)


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


def _options(relation: Relation, to: Path) -> str:
    packed = ", COMPRESSION gzip" if to.suffix.lower() == ".gz" else ""
    if relation.format == "parquet":
        return "FORMAT parquet"
    if relation.format == "jsonl":
        return f"FORMAT json{packed}"
    quote = f"QUOTE {literal(relation.quote)}, ESCAPE {literal(relation.quote)}"
    return f"FORMAT csv, HEADER, DELIMITER {literal(relation.separator)}, {quote}{packed}"


def _encode(file: Path, encoding: str) -> None:
    """Write a file of UTF-8 anew in another encoding, line by line."""
    with (
        file.open(encoding="utf-8", newline="") as given,
        replacing_file(file) as partial,
        partial.open("w", encoding=encoding, newline="") as out,
    ):
        try:
            out.writelines(given)
        except UnicodeEncodeError as error:
            raise InputError(f"{file.name}: a filled cell cannot be written in {encoding}: {error}") from None
