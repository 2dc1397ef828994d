"""A spec for files that nobody described: columns, time unit, label rule and feature kinds, guessed from a sample."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from twotower.core.errors import InputError, closest, shown
from twotower.data.frame_features import Table, choose_features
from twotower.data.frame_guesses import candidates, find_id
from twotower.data.frame_notices import Notices
from twotower.data.frame_reader import Frame, types_of
from twotower.data.frame_times import UNITS, unit_of_numbers
from twotower.data.frames import check_sides
from twotower.data.guess_file import SAMPLE, guess_source
from twotower.data.guess_order import find_order
from twotower.data.prepare.database import NO_FOLDERS, as_pattern, database, literal, one, parquet, quoted, reading
from twotower.data.prepare.read import column_names
from twotower.data.prepare.rows import rows_of
from twotower.data.prepare.separators import cells_of_line
from twotower.data.prepare.spec import Source, Spec, plain_table
from twotower.data.prepare.values import number_of

ROWS = 200_000
"""Rows of each file that are looked at."""

_LEVELS = 20
"""Up to so many different values are a scale of ratings."""


@dataclass(frozen=True)
class Hints:
    """Hold what the caller gives; what is None is guessed."""

    user: str | None = None
    item: str | None = None
    time: str | None = None
    """"none": the log has no clock, whatever its columns are called."""
    unit: str | None = None
    value: str | None = None
    at_least: int | float | None = None
    """Events with this value or a higher one are positives."""
    columns: tuple[str, ...] = ()
    """Names for a log without a header line."""


def guess_spec(
    log: Path,
    *,
    items: Path | None = None,
    users: Path | None = None,
    hints: Hints | None = None,
    notices: Notices | None = None,
) -> Spec:
    """Read a sample of each file and make the spec that `prepare` takes; its paths are absolute.

    Args:
        log: CSV, TSV, JSON lines or Parquet; .gz too.
        items: a table of items.
        users: a table of users.
        hints: what is known already.
        notices: hear every guess.

    Raises:
        InputError: if a file is no table, or a column cannot be told; says which option to give.
    """
    hints, notices = hints or Hints(), notices or Notices()
    given = [name for name in (hints.user, hints.item, hints.time, hints.value) if name]
    with tempfile.TemporaryDirectory(prefix="twotower-", ignore_cleanup_errors=True) as made:
        work = Path(made)
        with database(work) as connection:
            source, frame, types = _sampled(connection, "events", log, work, hints.columns, given)
            section = _log(connection, frame, types, log, source.format, hints, notices)
            tables: dict[str, Table] = {}
            sources: dict[str, Source] = {}
            for what, path in (("users", users), ("items", items)):
                if path is not None:
                    sources[what], tables[what] = _table(connection, what, path, work, section, notices)
            check_sides(connection, "events", section, tables, notices, f"in the sample of {log.name}")
            features = choose_features(connection, tables, None, notices)
    for file in (source, *sources.values()):
        if file.decimal == ",":
            notices.tell(f"numbers of {Path(file.path[0]).name} are read with decimal commas")
    label = section.pop("label", None)
    values: dict[str, Any] = {
        "name": log.name.split(".")[0] or "log",
        "interactions": {**plain_table(source), **section},
        "split": {"kind": "leave-one-out"},
    }
    if label:
        values["label"] = label
    for what, table in tables.items():
        values[what] = {**plain_table(sources[what]), "id": table.id, "features": features[what]}
        if table.title:
            values[what]["title"] = table.title
    return Spec.from_dict(values)


def _sampled(
    connection: Any, what: str, path: Path, work: Path, columns: tuple[str, ...], named: list[str]
) -> tuple[Source, Frame, dict[str, str]]:
    """Load a sample as the table ``what``, typed; text files also as ``what_text``, all cells text."""
    source, text = guess_source(path, columns=columns, named=named)
    head = work / f"{what}.txt"
    head.write_text(text, encoding="utf-8", errors="replace")
    names: list[str] = []
    try:
        with reading(path):
            if source.format == "parquet":
                sql = parquet(path)
            elif source.format == "jsonl":
                options = f"format='newline_delimited', ignore_errors=true, sample_size=-1, {NO_FOLDERS}"
                sql = f"read_json({as_pattern(head)}, {options})"
            else:
                names = column_names(path, head, _separator(source), source)
                sql, texts = (_csv(head, source, names, how) for how in ("sample_size=-1", "all_varchar=true"))
                connection.execute(f"CREATE TABLE {what}_text AS SELECT * FROM {texts} LIMIT {ROWS}")
            connection.execute(f"CREATE TABLE {what} AS SELECT * FROM {sql} LIMIT {ROWS}")
    except InputError as error:
        if "sniffing" in str(error) and source.quote:
            raise _odd_quote(path, head, source, len(names)) from None
        raise
    types = types_of(connection, what)
    if not one(connection, f"SELECT count(*) FROM {what}"):
        raise _without_rows(path, head, source, len(names))
    return source, Frame(what, "duckdb", None, tuple(types)), types


def _separator(source: Source) -> str:
    return source.separator or ("\t" if source.format == "tsv" else ",")


def _csv(head: Path, source: Source, columns: list[str], how: str) -> str:
    alone = len({name.lower() for name in columns}) == len(columns)  # a table of the engine takes no others
    names = f", names=[{', '.join(map(literal, columns))}]" if alone else ""
    return (
        f"read_csv({as_pattern(head)}, delim={literal(_separator(source))}, quote={literal(source.quote)}, "
        f"escape={literal(source.quote)}, decimal_separator={literal(source.decimal)}, "
        f"header={str(not source.columns).lower()}{names}, "
        f"ignore_errors=true, null_padding=false, strict_mode=false, max_line_size={SAMPLE}, {how}, {NO_FOLDERS})"
    )


def _odd_quote(path: Path, head: Path, source: Source, columns: int) -> InputError:
    """The error of a sample whose quotes no reader can part."""
    quote = source.quote
    twice = f"double a quote inside a cell ({quote * 2}), or give a --spec with quote = '' where quotes are letters"
    for row in rows_of(head, _separator(source), quote, columns):
        if row.swallowed:
            return InputError(
                f"{path}: a quote opens in line {row.first:,} and swallows {row.lines - 1:,} lines; close it, {twice}"
            )
    with head.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if f"\\{quote}" in line:
                return InputError(
                    f"{path}: line {number:,} writes a quote inside a cell as \\{quote}; double it ({quote * 2}), or "
                    r"give a --spec with escape = '\'"
                )
    return InputError(f"{path}: a quote stands alone in a cell; {twice}")


def _without_rows(path: Path, head: Path, source: Source, columns: int) -> InputError:
    """The error of a sample that has no row as long as its first line: the first of them, where there is any."""
    if source.format in ("csv", "tsv"):
        lines = head.read_text(encoding="utf-8").split("\n")
        for row in islice(rows_of(head, _separator(source), source.quote, columns), 1, None):
            joined = "\n".join(lines[row.first - 1 : row.first - 1 + row.lines])
            cells = len(cells_of_line(joined, _separator(source), source.quote))
            if cells != columns:
                return InputError(
                    f"{path}: no row can be read: line {row.first:,} has {cells} cells, the first line has {columns}; "
                    "give each row a cell for each column, an empty one where a value is missing"
                )
    return InputError(f"{path}: no rows; the file is empty or holds only a header")


def _log(
    connection: Any,
    frame: Frame,
    types: dict[str, str],
    path: Path,
    form: str,
    hints: Hints,
    notices: Notices,
) -> dict[str, Any]:
    """The keys of [interactions] but those of the source, and ``label`` where there is a rule."""
    user, item = _column(frame, path, "user", hints.user), _column(frame, path, "item", hints.item)
    if not user and item:
        raise InputError(_asked(frame, path, "user") + "; if this is a table of items, it goes with --items")
    for role, found in (("user", user), ("item", item)):
        if not found:
            raise InputError(_asked(frame, path, role))
    if user == item:
        raise InputError(f"{path}: column '{user}' is given as user and as item; name two")
    if user in candidates(frame, "item") and item in candidates(frame, "user"):
        raise InputError(f"{path}: user '{user}' and item '{item}' are exchanged; give --user {item} --item {user}")
    for column in (user, item):
        if types[column].endswith("]"):
            raise InputError(
                f"{path}: column '{column}' holds lists, and a log has a line for each event: write one id a line "
                f"(in pandas: frame.explode('{column}'))"
            )
    section: dict[str, Any] = {"user": user, "item": item}
    time = "" if hints.time == "none" else _column(frame, path, "time", hints.time)
    if hints.unit is not None and hints.unit not in UNITS:
        raise InputError(f"--unit '{hints.unit}': {closest(hints.unit, UNITS)}")
    asked = time or hints.time or hints.unit
    order = "" if asked else find_order(connection, types, user, [user, item], notices)
    if time:
        section["time"] = time
        section["unit"] = hints.unit or _unit(connection, path, form, time, types[time], notices)
    elif order or hints.unit == "order":
        section |= {"time": order, "unit": "order"} if order else {"unit": "order"}
    else:
        section["duplicates"] = "first"  # events without a clock are a set
        notices.tell("no time column: a user's events are a set, and what is held out of them is drawn at random")
    if label := _label(connection, frame, types, path, hints, notices):
        section["label"] = label
        section["value"] = label["column"]
    told = ", ".join(f"{role} '{section[role]}'" for role in ("user", "item", "time", "value") if role in section)
    rest = [name for name in frame.columns if name not in section.values()]
    notices.tell(f"columns of {path.name}: {told}" + (f"; not used: {', '.join(rest[:20])}" if rest else ""))
    return section


def _column(frame: Frame, path: Path, role: str, given: str | None) -> str:
    """The column of a role, '' where none is called so.

    Raises:
        InputError: if the given one is not there, or several could be meant.
    """
    if given is not None:
        if given not in frame.columns:
            raise InputError(f"{path}: no column '{given}' (--{role}); {closest(given, frame.columns)}")
        return given
    found = candidates(frame, role)
    if len(found) > 1:
        listed = ", ".join(f"'{name}'" for name in found)
        raise InputError(f"{path}: columns {listed} could each be the {role}; say which with --{role} {found[0]}")
    return found[0] if found else ""


def _asked(frame: Frame, path: Path, role: str) -> str:
    shown = ", ".join(frame.columns[:20])
    return f"{path}: no column is called '{role}' or a usual name of it; say which with --{role} NAME (it has {shown})"


def _unit(connection: Any, path: Path, form: str, column: str, kind: str, notices: Notices) -> str:
    """The unit of the times, as a spec names it.

    Raises:
        InputError: if they are neither numbers nor dates that `prepare` reads.
    """
    if not kind.startswith(("TIMESTAMP", "DATE", "VARCHAR")):
        return unit_of_numbers(connection, "events", column, kind, notices)
    if form == "parquet" and kind != "VARCHAR":
        return "s"
    table, name = "events" if form in ("parquet", "jsonl") else "events_text", quoted(column)
    rows, bad, example = connection.execute(
        f"SELECT count({name}), count({name}) FILTER (moment IS NULL), min({name}) FILTER (moment IS NULL) "
        f"FROM (SELECT {name}::VARCHAR AS {name}, TRY_CAST({name}::VARCHAR AS TIMESTAMPTZ) AS moment FROM {table})"
    ).fetchall()[0]
    if bad > 0.01 * rows:
        raise InputError(
            f"{path}: times in '{column}' (as '{example}') are no numbers and no dates as 2024-01-31 18:30; rewrite "
            "them, name another column with --time NAME, or go without a clock with --time none"
        )
    notices.tell(f"times in '{column}' are read as dates in text; those without an offset are taken as UTC")
    return "iso"


def _label(
    connection: Any, frame: Frame, types: dict[str, str], path: Path, hints: Hints, notices: Notices
) -> dict[str, Any]:
    """The rule for positives, empty where every event is one; what is not liked stays as label 0, so as seen."""
    if hints.value is not None:
        found = [_column(frame, path, "value", hints.value)]
    else:
        found = candidates(frame, "label") or candidates(frame, "value")
    if len(found) != 1:
        if hints.at_least is not None:
            raise InputError(f"{path}: --positive-from needs the column of ratings; say which with --value NAME")
        return {}
    column = found[0]
    number = number_of(column, types[column], quoted)
    if hints.value is not None and not one(connection, f"SELECT count({number}) FROM events"):
        raise InputError(f"{path}: no cell of column {shown(column)}, which --value names, is a number")
    if hints.at_least is not None:
        return {"column": column, "at_least": hints.at_least, "keep": "all"}
    values = [
        value
        for (value,) in connection.execute(
            f"SELECT DISTINCT {number} AS n FROM events WHERE {number} IS NOT NULL ORDER BY n LIMIT {_LEVELS + 1}"
        ).fetchall()
    ]
    if values == [0.0, 1.0]:
        notices.tell(f"'{column}' holds 0 and 1: events with 1 are positives")
        return {"column": column, "at_least": 1.0, "keep": "all"}
    if values in ([-1.0, 1.0], [-1.0, 0.0, 1.0]):
        notices.tell(f"'{column}' holds -1 and 1: events with 1 are positives")
        return {"column": column, "at_least": 1.0, "keep": "all"}
    if 2 < len(values) <= _LEVELS:
        notices.tell(
            f"'{column}' holds ratings from {values[0]:g} to {values[-1]:g}: every event counts as a positive, "
            f"whatever its rating; --positive-from {values[round(0.7 * (len(values) - 1))]:g} keeps good ones alone"
        )
    return {}


def _table(
    connection: Any, what: str, path: Path, work: Path, section: dict[str, Any], notices: Notices
) -> tuple[Source, Table]:
    """A table of users or items: its source, its sample, its id and its titles."""
    role = what.removesuffix("s")
    source, frame, types = _sampled(connection, what, path, work, (), [section[role]])
    key = find_id(frame, role, section[role])
    titles = candidates(frame, "title") if what == "items" else []
    return source, Table(frame, what, key, types, titles[0] if len(titles) == 1 else "")
