"""Raw files as SQL relations, whatever their format, and the line numbers of rows that cannot be used."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from twotower.core.address import is_address
from twotower.core.errors import InputError, closest, shown
from twotower.data.prepare.database import NO_FOLDERS, as_pattern, column_sql, literal, one, parquet, quoted, reading
from twotower.data.prepare.lines import plain_lines
from twotower.data.prepare.rows import Row, count_lines, rows_of
from twotower.data.prepare.separators import cells_of_line, other_separator
from twotower.data.prepare.source_files import files_of, local_copy
from twotower.data.prepare.spec import FORMATS, Source
from twotower.data.prepare.values import with_points

SHOWN_FAULTS = 5
A_DATE = ", but a date"
"""End of the fault of a time that is to be a number and is a date in text."""


@dataclass(frozen=True)
class Relation:
    """Describe one raw file as SQL."""

    path: Path
    """As the spec names it, for messages."""
    readable: Path
    """The same in UTF-8, unpacked, with lines that end in a newline."""
    format: str
    sql: str
    types: dict[str, str]
    """SQL type of each column: VARCHAR for text formats, JSON for JSON lines."""
    quote: str = ""
    has_header: bool = False
    separator: str = ""
    escape: str = ""

    def rows(self) -> Iterator[Row]:
        """Return the rows of the file by their lines, a header among them."""
        return rows_of(self.readable, self.separator, self.quote, len(self.types), self.escape)

    def require(self, column: str) -> str:
        """Return the type of a column.

        Raises:
            InputError: if the file has no such column; names the closest one.
        """
        if column not in self.types:
            found = ""
            if self.has_header:
                found = other_separator(self.readable, self.separator, self.quote, escape=self.escape)
            hint = f"its lines are cut by {_spelled(found)}: set separator = {_spelled(found)}" if found else ""
            raise InputError(f"{self.path}: no column {shown(column)}; {hint or closest(column, self.types)}")
        return self.types[column]


@dataclass
class Faults:
    """Count malformed rows of one table, and keep the first of them with their lines."""

    rows: int = 0
    """Rows read, malformed ones too."""
    malformed: int = 0
    first: list[str] = field(default_factory=list)
    not_utf8: bool = False
    commas: bool = False
    """Whether one of the first is a number with a decimal comma in a text file."""
    escapes: bool = False
    """Whether a line that cannot be parted has a quote behind a backslash, and no escape is set."""
    lines: int = 0
    """Lines of those rows; a row of Parquet counts as one."""
    malformed_lines: int = 0
    within: int = 0
    """Lines of good rows that go on in a quoted cell of the line before."""
    blank: int = 0
    header: int = 0

    def add(self, more: Faults) -> None:
        """Add those of files that come after."""
        self.first = (self.first + more.first)[:SHOWN_FAULTS]
        for name in ("not_utf8", "commas", "escapes"):
            setattr(self, name, getattr(self, name) or getattr(more, name))
        for name in ("rows", "malformed", "lines", "malformed_lines", "within", "blank", "header"):
            setattr(self, name, getattr(self, name) + getattr(more, name))

    def check(self, max_share: float, what: str) -> None:
        """Stop when more than ``max_share`` of the rows, or of their lines, is malformed.

        Raises:
            InputError: shows the first faults.
        """
        if self.rows == 0:
            raise InputError(f"{what}: no rows; the file is empty or holds only a header")
        if self.malformed > max_share * self.rows or self.malformed_lines > max_share * self.lines:
            dates = all(fault.endswith(A_DATE) for fault in self.first)
            hint = "; dates in text need unit = 'iso'" if self.first and dates else ""
            raise InputError(f"{self.describe(what)}; over the {max_share:.2%} that max_bad_share allows{hint}")

    def describe(self, what: str) -> str:
        """Return one line: the count and the first few."""
        hint = "; not UTF-8: set encoding = 'latin-1' or what it is" if self.not_utf8 else ""
        hint += "; for decimal commas set decimal = ','" if self.commas else ""
        hint += r"""; for quotes behind a backslash set escape = '\'""" if self.escapes else ""
        lines = f", {self.malformed_lines:,} of {self.lines:,} lines" if self.malformed_lines != self.malformed else ""
        return f"{what}: {self.malformed:,} of {self.rows:,} rows are malformed ({'; '.join(self.first)}){lines}{hint}"

    def count(self) -> dict[str, int]:
        """Count lines by what became of them.

        Read, malformed, blank and header add up to the lines of the files.
        """
        read = self.lines - self.malformed_lines
        return {"read": read, "malformed": self.malformed_lines, "blank": self.blank, "header": self.header}


def relations(
    connection: Any, source: Source, folder: Path, work: Path, numbers: Sequence[str] = ()
) -> Iterator[Relation]:
    """Open each file of a source; ``numbers`` are the columns that may have the decimal sign of the source.

    Raises:
        InputError: if a file is missing, empty, of unknown format, or not what its format says.
    """
    for number, name in enumerate(files_of(source, folder)):
        path = local_copy(name, work / f"fetched-{number}")
        kind = source.format or _format(path)
        if path.stat().st_size == 0:
            raise InputError(f"{path}: the file is empty")
        if kind == "parquet":
            yield _parquet(connection, path)
            _forget(path, name)
            continue
        readable = plain_lines(path, source.encoding, work / f"plain-{number}.txt")
        if kind == "jsonl":
            yield _json_lines(connection, path, readable)
        else:
            yield _delimited(path, readable, kind, source, numbers)
        if readable != path:
            readable.unlink()
        _forget(path, name)


def _forget(path: Path, name: str) -> None:
    """Remove the copy of a file that lies at an address."""
    if is_address(name):
        path.unlink()


def _parquet(connection: Any, path: Path) -> Relation:
    sql = parquet(path)
    with reading(path):
        columns = connection.execute(f"DESCRIBE SELECT * FROM {sql}").fetchall()
    names = ", ".join(f"{quoted(name)} AS {column_sql(name)}" for name, *_ in columns)
    return Relation(path, path, "parquet", f"(SELECT {names} FROM {sql})", {name: kind for name, kind, *_ in columns})


def load(connection: Any, table: str, relation: Relation, select: str, fault: str, faults: Faults) -> None:
    """Append ``select`` of a file's rows to ``table``, with each row's fault (NULL: none) in its last column, __fault.

    Rows keep the order of the file. What the reader cannot part into columns is counted as malformed and left out.
    """
    start = one(connection, f"SELECT count(*) FROM {table}")
    with reading(relation.path):
        connection.execute(f"INSERT INTO {table} SELECT {select}, {fault} FROM {relation.sql} AS source")
    rejected: list[tuple[int, str, str, bool]] = []
    if relation.format in ("csv", "tsv"):
        rejected = connection.execute(
            "SELECT line_byte_position - 1, min(error_type)::VARCHAR, arg_min(error_message, error_type), "
            f"bool_or(contains(csv_line, {literal(chr(92) + relation.quote)})) FROM reject_errors "
            "GROUP BY line_byte_position ORDER BY 1"
        ).fetchall()
        connection.execute("DROP TABLE reject_errors; DROP TABLE reject_scans")
    lines = _rejected_lines(relation, [position for position, *_ in rejected])
    _count_lines(connection, table, start, relation, lines, faults)
    bad = f"FROM {table} WHERE rowid >= {start} AND __fault IS NOT NULL"
    marked = one(connection, f"SELECT count(*) {bad}")
    faults.rows += one(connection, f"SELECT count(*) FROM {table}") - start + len(rejected)
    faults.malformed += marked + len(rejected)
    faults.not_utf8 |= any("ENCODING" in kind or "UNICODE" in kind for _, kind, *_ in rejected)
    faults.escapes |= bool(relation.quote) and not relation.escape and any(escaped for *_, escaped in rejected)
    missing = SHOWN_FAULTS - len(faults.first)
    if missing > 0 and (marked or rejected):
        marks = connection.execute(f"SELECT rowid - {start}, __fault {bad} ORDER BY rowid LIMIT {missing}").fetchall()
        found = [(line, _said(kind, more)) for line, (_, kind, more, _) in zip(lines, rejected, strict=True)]
        found += zip(_lines(relation, [row for row, _ in marks], set(lines)), (text for _, text in marks), strict=True)
        faults.commas |= relation.format in ("csv", "tsv") and any(_DECIMAL_COMMA.search(text) for _, text in marks)
        faults.first += [f"{relation.path.name} line {line}: {text}" for line, text in sorted(found)[:missing]]


_DECIMAL_COMMA = re.compile(r" is '[-+]?[0-9]*,[0-9]+', not a number$")
_REJECTED = {
    "MISSING COLUMNS": "too few columns",
    "TOO MANY COLUMNS": "too many columns",
    "UNQUOTED VALUE": "a quote that is not closed",
    "INVALID ENCODING": "not UTF-8",
    "INVALID UNICODE": "not UTF-8",
    "LINE SIZE OVER MAXIMUM": "the line is too long",
}


def _said(kind: str, message: str) -> str:
    """Why the reader rejected a row, with the number of its cells where that is why."""
    expected, found = (re.search(rf"{word}: (\d+)", message) for word in ("Expected Number of Columns", "Found"))
    cells = f": {found[1]}, not {expected[1]}" if "COLUMNS" in kind and expected and found else ""
    return _REJECTED.get(kind, kind.lower()) + cells


def format_of(path: Path) -> str:
    """Return the format that a file's name implies; empty where it implies none."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    suffix = suffixes[-1].removeprefix(".") if suffixes else ""
    word = {"ndjson": "jsonl", "json": "jsonl", "pq": "parquet", "tab": "tsv"}.get(suffix, suffix)
    return word if word in FORMATS else ""


def _format(path: Path) -> str:
    word = format_of(path)
    if not word:
        raise InputError(f"{path}: its extension tells no format; set format to one of {', '.join(FORMATS)}")
    return word


def _delimited(path: Path, readable: Path, kind: str, source: Source, numbers: Sequence[str]) -> Relation:
    separator = source.separator or ("\t" if kind == "tsv" else ",")
    names = column_names(path, readable, separator, source)
    if source.columns and (found := other_separator(readable, separator, source.quote, len(names), source.escape)):
        raise InputError(
            f"{path}: its lines do not fall into {len(names)} columns at {_spelled(separator)}, but they do at "
            f"{_spelled(found)}: set separator = {_spelled(found)}"
        )
    columns = ", ".join(f"{column_sql(name)}: 'VARCHAR'" for name in names)
    sql = (
        f"read_csv({as_pattern(readable)}, auto_detect=false, header={str(not source.columns).lower()}, "
        f"delim={literal(separator)}, quote={literal(source.quote)}, escape={literal(source.escape or source.quote)}, "
        f"columns={{{columns}}}, store_rejects=true, compression='none', {NO_FOLDERS})"
    )
    if source.decimal == "," and (with_commas := [column_sql(name) for name in names if name in numbers]):
        points = ", ".join(f"{with_points(name)} AS {name}" for name in with_commas)
        sql = f"(SELECT * REPLACE ({points}) FROM {sql})"
    types = dict.fromkeys(names, "VARCHAR")
    return Relation(path, readable, kind, sql, types, source.quote, not source.columns, separator, source.escape)


def column_names(path: Path, readable: Path, separator: str, source: Source) -> list[str]:
    """Return the names of a text file's columns: those of the source, else those of the header.

    Raises:
        InputError: if two are the same.
    """
    names = list(source.columns)
    if not names:
        with readable.open("rb") as file:
            line = file.readline().decode("utf-8-sig", errors="replace").rstrip("\r\n")
        names = cells_of_line(line, separator, source.quote, source.escape)
    names = [name or f"column{place}" for place, name in enumerate(names, start=1)]
    twice = [name for name, number in Counter(names).items() if number > 1]
    if twice:
        raise InputError(f"{path}: two columns are called {shown(twice[0])}; rename one")
    return names


def _json_lines(connection: Any, path: Path, readable: Path) -> Relation:
    objects = (
        f"read_json_objects({as_pattern(readable)}, format='newline_delimited', ignore_errors=true, "
        f"compression='uncompressed', {NO_FOLDERS})"
    )
    with reading(path):
        found = connection.execute(
            "SELECT key, min(place) FILTER (again) AS first_again FROM (SELECT unnest(keys) AS key, place, "
            "generate_subscripts(keys, 1) AS spot, list_position(keys, key) < spot AS again FROM "
            f"(SELECT json_keys(json) AS keys, row_number() OVER () AS place FROM {objects})) "
            "GROUP BY key ORDER BY min(place), min(spot)"
        ).fetchall()
    keys = [key for key, _ in found]
    twice = min(((place, key) for key, place in found if place is not None), default=None)
    if twice is not None:
        line = next((row.first for row in islice(rows_of(readable), twice[0] - 1, None)), twice[0])
        raise InputError(
            f"{path}: line {line:,} has the key {shown(twice[1])} twice; an object has each key once: rename one or "
            "drop it"
        )
    if not keys:
        raise InputError(f"{path}: no JSON object on a line of its own")
    pointers = ((key, "/" + key.replace("~", "~0").replace("/", "~1")) for key in keys)
    columns = ", ".join(f"json_extract(json, {literal(pointer)}) AS {column_sql(key)}" for key, pointer in pointers)
    return Relation(path, readable, "jsonl", f"(SELECT {columns} FROM {objects})", dict.fromkeys(keys, "JSON"))


def _spelled(separator: str) -> str:
    """The separator as a spec writes it."""
    return '"\\t"' if separator == "\t" else f"'{separator}'"


def _rejected_lines(relation: Relation, positions: Sequence[int]) -> list[int]:
    """The line that each byte position, ascending, lies on; the first line is 1."""
    if not positions:
        return []
    lines, line, read = [], 1, 0
    with relation.readable.open("rb") as file:
        for position in positions:
            while read < position:
                block = file.read(min(1 << 20, position - read))
                if not block:
                    break
                line, read = line + block.count(b"\n"), read + len(block)
            while (letter := file.read(1)) in (
                b"\r",
                b"\n",
            ):  # beside CRLF, positions are of the LF before
                line, read = line + (letter == b"\n"), read + 1
            file.seek(read)
            lines.append(line)
    return lines


def _lines(relation: Relation, rows: Iterable[int], left_out: set[int]) -> list[int]:
    """The lines where the accepted rows of those numbers (from 0, ascending) begin, a header and bad lines counted."""
    wanted = list(rows)
    if relation.format == "parquet" or not wanted:
        return [row + 1 for row in wanted]
    accepted = (
        row.first for row in islice(relation.rows(), int(relation.has_header), None) if row.first not in left_out
    )
    ends = set(wanted)
    found = [line for number, line in enumerate(islice(accepted, wanted[-1] + 1)) if number in ends]
    # Where quotes are so odd that the walk ran past the end, the row's number is the best guess.
    return found + [row + 1 + relation.has_header for row in wanted[len(found) :]]


def _count_lines(
    connection: Any, table: str, start: int, relation: Relation, rejected: Sequence[int], faults: Faults
) -> None:
    """Count the file's lines, those of malformed rows too; marks rows that a stray quote made of several lines."""
    loaded = one(connection, f"SELECT count(*) FROM {table}") - start
    bad = f"FROM {table} WHERE rowid >= {start} AND __fault IS NOT NULL"
    if relation.format == "parquet":
        faults.lines += loaded
        faults.malformed_lines += one(connection, f"SELECT count(*) {bad}")
        return
    lines, blank = count_lines(relation.readable)
    header = int(relation.has_header)
    more = lines - blank - header - loaded - len(rejected)
    long: dict[int, int] = {}
    malformed = len(rejected)
    if more > 0 and relation.quote:
        left_out, number = set(rejected), 0
        for row in islice(relation.rows(), header, None):
            if row.first in left_out:
                malformed += row.lines - 1
            else:
                if row.lines > 1:
                    long[number] = row.lines
                if row.swallowed:
                    said = f"a quote opens here and closes {row.lines - 1:,} lines on, each of which looks like a row"
                    connection.execute(f"UPDATE {table} SET __fault = ? WHERE rowid = ?", [said, start + number])
                number += 1
            blank -= row.lines - row.filled
        if number != loaded:  # the engine parts rows elsewhere: all lines that no row owns are lost
            long, malformed = {}, len(rejected) + more
    marked = [row for (row,) in connection.execute(f"SELECT rowid - {start} {bad}").fetchall()]
    within = sum(long.values()) - len(long)
    bad_lines = malformed + sum(long.get(row, 1) for row in marked)
    faults.lines += lines - blank - header
    faults.malformed_lines += bad_lines
    faults.within += within - sum(long.get(row, 1) - 1 for row in marked)
    faults.blank += blank
    faults.header += header
