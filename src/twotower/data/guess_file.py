"""Guess of a file that nobody described: its format by its first bytes, its separator, header and encoding."""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from twotower.core.errors import InputError, shown
from twotower.data.frame_guesses import is_usual
from twotower.data.prepare.lines import FOREIGN
from twotower.data.prepare.separators import cells_of_line
from twotower.data.prepare.spec import Source

SAMPLE = 8 << 20
"""Bytes, unpacked, that a guess rests on."""

_COMMA_NUMBER = re.compile(r"[-+]?[0-9]*,?[0-9]+", re.ASCII)
_LINES = 200
"""Lines that are looked at for separator and header."""

_SEPARATORS = ("\t", "::", ",", ";", "|", " ")
_ALIKE = 0.9
"""Share of the lines that must have one number of cells for a separator to be one."""

_BOMS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16", codecs.BOM_UTF8: "utf-8"}


def guess_source(path: Path, *, columns: tuple[str, ...] = (), named: Iterable[str] = ()) -> tuple[Source, str]:
    """Return the source that a spec would name, and the first lines of a text file in UTF-8 ('' for Parquet).

    Args:
        path: of the file.
        columns: names for a file without a header; empty: it has one, or the guess fails.
        named: column names that the caller knows of; a first line that holds one is a header.

    Raises:
        InputError: if it is no table, or the header cannot be told; says what to do.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file" if not path.exists() else f"{path}: a folder; give one file")
    head, cut = _head(path)
    full = str(path.resolve())
    if not head:
        raise InputError(f"{path}: the file is empty")
    if head.startswith(b"PAR1"):
        return Source((full,), "parquet"), ""
    for sign, words in FOREIGN.items():
        if head.startswith(sign):
            raise InputError(f"{path}: is {words}; a log is a table in CSV, TSV, JSON lines or Parquet")
    text, encoding = _decoded(path, head, cut)
    lines = [line for line in text.split("\n", _LINES + 1)[:_LINES] if line.strip()]
    if not lines:
        raise InputError(f"{path}: the file holds only blank lines")
    if lines[0].lstrip()[:1] in "[{<":
        _check_json_lines(path, lines)
        return Source((full,), "jsonl", encoding=encoding), text
    separator, cells = _separated(path, lines)
    tab = separator == "\t"
    stray = tab and any(line.count('"') % 2 for line in lines)
    if stray:
        cells = [cells_of_line(line, separator, "") for line in lines]
    if not columns and not _has_header(cells, set(named)):
        example = ["user", "item", "rating", "time"][: len(cells[0])] + [""] * (len(cells[0]) - 4)
        names = "" if any(map(_is_number, cells[0])) else "if it is a header, give --user and --item; if not, "
        raise InputError(
            f"{path}: its first line ({shown(lines[0], 60)}) does not look like column names; {names}name the "
            f"{len(cells[0])} columns in order, as --columns {','.join(name or 'other' for name in example)}"
        )
    if len(set(columns)) < len(columns):
        raise InputError(f"{path}: --columns names a column twice; each has a name of its own")
    if columns and len(columns) != len(cells[0]):
        raise InputError(f"{path}: {len(columns)} column names are given, and its lines have {len(cells[0])} cells")
    return Source(
        (full,),
        "tsv" if tab else "csv",
        separator="" if separator in "\t," else separator,
        quote="" if stray else '"',
        columns=columns,
        encoding=encoding,
        decimal="," if separator != "," and _has_decimal_commas(cells) else ".",
    ), text


def _has_decimal_commas(rows: list[list[str]]) -> bool:
    """Whether every cell of some column, its name aside, is a number, and one has a decimal comma."""
    columns = zip(*(row for row in rows[1:] if len(row) == len(rows[0])), strict=True)
    return any(
        any("," in cell for cell in column) and all(_COMMA_NUMBER.fullmatch(cell.strip()) for cell in column if cell)
        for column in columns
    )


def _head(path: Path) -> tuple[bytes, bool]:
    """The first bytes, unpacked, and whether more follow."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            head = file.read(SAMPLE)
            return head, bool(file.read(1))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: begins as a gzip file but cannot be unpacked ({error})") from None


def _decoded(path: Path, head: bytes, cut: bool) -> tuple[str, str]:
    """The head as text of whole lines, and its encoding."""
    encoding = next((name for bom, name in _BOMS.items() if head.startswith(bom)), "")
    if not encoding and b"\0" in head:
        raise InputError(f"{path}: holds binary data, no table; a log is a table in CSV, TSV, JSON lines or Parquet")
    text = ""
    for name in (encoding,) if encoding else ("utf-8", "latin-1"):
        decoder = codecs.getincrementaldecoder("utf-8-sig" if name == "utf-8" else name)()
        try:
            text, encoding = decoder.decode(head, final=not cut), name
            break
        except UnicodeDecodeError:
            continue
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text[: text.rindex("\n") + 1] if cut and "\n" in text else text, encoding or "utf-8"


def _check_json_lines(path: Path, lines: list[str]) -> None:
    if lines[0].lstrip().startswith("<"):
        raise InputError(f"{path}: is a web page or XML; a log is a table in CSV, TSV, JSON lines or Parquet")
    first = _object(lines[0])
    if first is None and 2 * sum(_object(line) is not None for line in lines[1:]) > len(lines) - 1:
        raise InputError(f"{path}: line 1 is no JSON object ({shown(lines[0], 60)}); mend it or take it out")
    nested = first is not None and len(lines) == 1 and any(isinstance(v, list | dict) for v in first.values())
    if first is None or nested:
        raise InputError(
            f"{path}: is one JSON document, not JSON lines; write one object a line, as \"jq -c '.[]'\" does for a list"
        )


def _object(line: str) -> dict[str, object] | None:
    try:
        found = json.loads(line)
    except json.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def _separated(path: Path, lines: list[str]) -> tuple[str, list[list[str]]]:
    """The separator, and the cells of each row: of a line, or of several that a quoted cell joins."""
    by_line = {separator: [cells_of_line(line, separator, '"') for line in lines] for separator in _SEPARATORS}
    by_row = {separator: _rows(lines, separator) for separator in _SEPARATORS if len(separator) == 1}
    for found, like_first in ((by_line, True), (by_row, True), (by_line, False)):
        for separator, rows in found.items():
            cells, often = Counter(map(len, rows)).most_common(1)[0]
            if cells > 1 and often >= _ALIKE * len(rows) and (len(rows[0]) == cells or not like_first):
                return separator, rows
    first, rest = shown(lines[0], 60), " give a --spec with its separator where it has another"
    for separator, rows in by_line.items():
        counts = {len(cells) for cells in rows}
        if min(counts) > 1:
            raise InputError(
                f"{path}: its lines ({first}) have {min(counts)} to {max(counts)} cells between {shown(separator)}; a "
                f"table has one number of columns;{rest}"
            )
    raise InputError(
        f"{path}: its lines ({first}) fall into no columns; a log has at least a user and an item a "
        f"line, as CSV, TSV or JSON lines;{rest}"
    )


def _rows(lines: list[str], separator: str) -> list[list[str]]:
    """Rows whose quoted cells may hold line ends; the last may be cut off."""
    try:
        rows = list(csv.reader((f"{line}\n" for line in lines), delimiter=separator, strict=False))
    except csv.Error:
        return [[]]
    return rows[:-1] if len(rows) > 1 else [[]]


def _has_header(rows: list[list[str]], named: set[str]) -> bool:
    """Whether the first row names columns: known or usual names, or words above columns of numbers."""
    first, rest = rows[0], rows[1:]
    if named & set(first) or any(is_usual(cell) for cell in first):
        return True
    if any(map(_is_number, first)) or len(set(first)) < len(first) or not all(cell.strip() for cell in first):
        return False
    columns = zip(*(row for row in rest if len(row) == len(first)), strict=True)
    return any(all(map(_is_number, column)) for column in columns)


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"\s*[-+]?\d+(\.\d+)?([eE][-+]?\d+)?\s*", cell) is not None
