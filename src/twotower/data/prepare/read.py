"""Raw files as SQL relations, whatever their format, and the line numbers of rows that cannot be used."""

from __future__ import annotations

import codecs
import csv
import glob
import gzip
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BufferedReader
from itertools import islice
from pathlib import Path
from typing import Any

from twotower.core.errors import InputError, closest
from twotower.data.prepare.database import literal, one, quoted, reading
from twotower.data.prepare.spec import FORMATS, Source

SHOWN_FAULTS = 5
_LINES_FOR_KEYS = 1000


@dataclass(frozen=True)
class Relation:
    """One raw file as SQL."""

    path: Path
    """As the spec names it, for messages."""
    readable: Path
    """The same in UTF-8."""
    format: str
    sql: str
    types: dict[str, str]
    """SQL type of each column: VARCHAR for text formats, JSON for JSON lines."""
    quote: str = ""
    has_header: bool = False

    def require(self, column: str) -> str:
        """The type of a column.

        Raises:
            InputError: if the file has no such column; names the closest one.
        """
        if column not in self.types:
            raise InputError(f"{self.path}: no column '{column}'; {closest(column, self.types)}")
        return self.types[column]


@dataclass
class Faults:
    """Malformed rows of one table: how many, and the first of them with their lines."""

    rows: int = 0
    """Rows read, malformed ones too."""
    malformed: int = 0
    first: list[str] = field(default_factory=list)
    not_utf8: bool = False

    def check(self, max_share: float, what: str) -> None:
        """Stop when more than ``max_share`` of the rows is malformed.

        Raises:
            InputError: shows the first faults.
        """
        if self.rows == 0:
            raise InputError(f"{what}: no rows; the file is empty or holds only a header")
        if self.malformed > max_share * self.rows:
            raise InputError(f"{self.describe(what)}; over the {max_share:.2%} that max_bad_share allows")

    def describe(self, what: str) -> str:
        """One line: the count and the first few."""
        hint = "; not UTF-8: set encoding = 'latin-1' or what it is" if self.not_utf8 else ""
        return f"{what}: {self.malformed:,} of {self.rows:,} rows are malformed ({'; '.join(self.first)}){hint}"


def relations(connection: Any, source: Source, folder: Path, work: Path) -> Iterator[Relation]:
    """Each file of a source, opened.

    Raises:
        InputError: if a file is missing, empty, of unknown format, or not what its format says.
    """
    for number, path in enumerate(_files(source, folder)):
        kind = source.format or _format(path)
        if path.stat().st_size == 0:
            raise InputError(f"{path}: the file is empty")
        if kind == "parquet":
            sql = f"read_parquet({literal(path)})"
            with reading(path):
                columns = connection.execute(f"DESCRIBE SELECT * FROM {sql}").fetchall()
            yield Relation(path, path, kind, sql, {column[0]: column[1] for column in columns})
            continue
        readable = _in_utf8(path, source.encoding, work / f"utf8-{number}")
        yield _json_lines(path, readable) if kind == "jsonl" else _delimited(path, readable, kind, source)
        if readable != path:
            readable.unlink()


def load(connection: Any, table: str, relation: Relation, select: str, fault: str, faults: Faults) -> None:
    """Append ``select`` of a file's rows to ``table``, with each row's fault (NULL: none) in its last column, __fault.

    Rows keep the order of the file. What the reader cannot part into columns is counted as malformed and left out.
    """
    start = one(connection, f"SELECT count(*) FROM {table}")
    with reading(relation.path):
        connection.execute(f"INSERT INTO {table} SELECT {select}, {fault} FROM {relation.sql} AS source")
    rejected: list[tuple[int, str]] = []
    if relation.format in ("csv", "tsv"):
        rejected = connection.execute(
            "SELECT line_byte_position - 1, min(error_type)::VARCHAR FROM reject_errors GROUP BY ALL ORDER BY 1"
        ).fetchall()
        connection.execute("DROP TABLE reject_errors; DROP TABLE reject_scans")
    bad = f"FROM {table} WHERE rowid >= {start} AND __fault IS NOT NULL"
    marked = one(connection, f"SELECT count(*) {bad}")
    faults.rows += one(connection, f"SELECT count(*) FROM {table}") - start + len(rejected)
    faults.malformed += marked + len(rejected)
    faults.not_utf8 |= any("ENCODING" in kind or "UNICODE" in kind for _, kind in rejected)
    missing = SHOWN_FAULTS - len(faults.first)
    if missing > 0 and (marked or rejected):
        marks = connection.execute(f"SELECT rowid - {start}, __fault {bad} ORDER BY rowid LIMIT {missing}").fetchall()
        lines = _rejected_lines(relation, [position for position, _ in rejected])
        found = [(line, _REJECTED.get(kind, kind.lower())) for line, (_, kind) in zip(lines, rejected, strict=True)]
        found += zip(_lines(relation, [row for row, _ in marks], set(lines)), (text for _, text in marks), strict=True)
        faults.first += [f"{relation.path.name} line {line}: {text}" for line, text in sorted(found)[:missing]]


_REJECTED = {
    "MISSING COLUMNS": "too few columns",
    "TOO MANY COLUMNS": "too many columns",
    "UNQUOTED VALUE": "a quote that is not closed",
    "INVALID ENCODING": "not UTF-8",
    "INVALID UNICODE": "not UTF-8",
    "LINE SIZE OVER MAXIMUM": "the line is too long",
}


def _files(source: Source, folder: Path) -> list[Path]:
    found: list[Path] = []
    for name in source.path:
        full = folder / name
        if full.is_file():
            found.append(full)
            continue
        matches = sorted(path for path in map(Path, glob.glob(str(full), recursive=True)) if path.is_file())  # noqa: PTH207
        if not matches:
            near = [path.name for path in full.parent.iterdir()] if full.parent.is_dir() else []
            raise InputError(f"{full}: no such file" + (f"; {closest(full.name, near)}" if near else ""))
        found += matches
    return found


def _format(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    suffix = suffixes[-1].removeprefix(".") if suffixes else ""
    word = {"ndjson": "jsonl", "json": "jsonl", "pq": "parquet", "tab": "tsv"}.get(suffix, suffix)
    if word not in FORMATS:
        raise InputError(f"{path}: its extension tells no format; set format to one of {', '.join(FORMATS)}")
    return word


def _delimited(path: Path, readable: Path, kind: str, source: Source) -> Relation:
    separator = source.separator or ("\t" if kind == "tsv" else ",")
    columns = list(source.columns) or _header(readable, separator, source.quote)
    names = [name or f"column{place}" for place, name in enumerate(columns, start=1)]
    lowered = [name.lower() for name in names]
    for name in names:
        if lowered.count(name.lower()) > 1:
            raise InputError(f"{path}: two columns are called '{name}' (letter case aside); rename one")
    types = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in names)
    sql = (
        f"read_csv({literal(readable)}, auto_detect=false, header={str(not source.columns).lower()}, "
        f"delim={literal(separator)}, quote={literal(source.quote)}, escape={literal(source.quote)}, "
        f"columns={{{types}}}, store_rejects=true)"
    )
    return Relation(path, readable, kind, sql, dict.fromkeys(names, "VARCHAR"), source.quote, not source.columns)


def _header(path: Path, separator: str, quote: str) -> list[str]:
    with _open(path) as file:
        line = file.readline().decode("utf-8-sig", errors="replace").rstrip("\r\n")
    if quote and len(separator) == 1:
        return next(csv.reader([line], delimiter=separator, quotechar=quote), [])
    return line.split(separator)


def _json_lines(path: Path, readable: Path) -> Relation:
    keys: dict[str, None] = {}
    with _open(readable) as file:
        for line in islice(file, _LINES_FOR_KEYS):
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                keys.update(dict.fromkeys(row))
    if not keys:
        raise InputError(f"{path}: no JSON object on a line of its own in the first {_LINES_FOR_KEYS} lines")
    columns = ", ".join(f"{quoted(key)}: 'JSON'" for key in keys)
    sql = (
        f"read_json({literal(readable)}, format='newline_delimited', ignore_errors=true, columns={{{columns}}}, "
        f"compression={literal('gzip' if readable.suffix == '.gz' else 'uncompressed')})"
    )
    return Relation(path, readable, "jsonl", sql, dict.fromkeys(keys, "JSON"))


def _in_utf8(path: Path, encoding: str, target: Path) -> Path:
    """The file itself when it is UTF-8, else a copy that is."""
    try:
        name = codecs.lookup(encoding).name
    except LookupError:
        raise InputError(f"encoding '{encoding}' is not known; try utf-8, latin-1, cp1252 or utf-16") from None
    if name in ("utf-8", "ascii", "utf-8-sig"):
        return path
    target = target.with_suffix("".join(suffix for suffix in path.suffixes if suffix != ".gz"))
    try:
        with _open(path) as raw, target.open("w", encoding="utf-8", newline="") as copy:
            shutil.copyfileobj(codecs.getreader(name)(raw), copy, 1 << 20)
    except UnicodeError as error:
        raise InputError(f"{path}: is not {encoding}: {error}") from None
    return target


def _open(path: Path) -> BufferedReader | gzip.GzipFile:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _rejected_lines(relation: Relation, positions: Sequence[int]) -> list[int]:
    """The line that each byte position, ascending, lies on; the first line is 1."""
    if not positions:
        return []
    lines, line, read = [], 1, 0
    with _open(relation.readable) as file:
        for position in positions:
            while read < position:
                block = file.read(min(1 << 20, position - read))
                if not block:
                    break
                line, read = line + block.count(b"\n"), read + len(block)
            lines.append(line)
    return lines


def _lines(relation: Relation, rows: Iterable[int], left_out: set[int]) -> list[int]:
    """The lines where the accepted rows of those numbers (from 0, ascending) begin, a header and bad lines counted."""
    wanted = list(rows)
    if relation.format == "parquet" or not wanted:
        return [row + 1 for row in wanted]
    quote = relation.quote.encode()
    found: list[int] = []
    row, open_since, quotes = -1 - relation.has_header, 0, 0
    with _open(relation.readable) as file:
        for number, line in enumerate(file, start=1):
            open_since = open_since or number
            quotes += line.count(quote) if quote else 0
            if quotes % 2 and open_since not in left_out:
                continue
            if line.strip() and open_since not in left_out:
                row += 1
                if row == wanted[len(found)]:
                    found.append(open_since)
                    if len(found) == len(wanted):
                        break
            open_since, quotes = 0, 0
    # Where quotes are so odd that the walk ran past the end, the row's number is the best guess.
    return found + [row + 1 + relation.has_header for row in wanted[len(found) :]]
