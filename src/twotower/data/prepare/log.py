"""The raw log as a table of events: its files read, each row and the times checked."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from twotower.core.errors import InputError, shown
from twotower.data.prepare.database import literal, one
from twotower.data.prepare.ids import id_text_of
from twotower.data.prepare.read import A_DATE, Faults, Relation, load, relations
from twotower.data.prepare.spec import Label, Spec
from twotower.data.prepare.values import UNITS_A_SECOND, canonical, form_of_text, number_of, seconds_of, text_of

Progress = Callable[[str], None]
"""Is told what is being done, in a few words."""

_EARLY = 2 * 365 * 86400
"""Seconds from 1970 until the end of 1971: a log whose every time lies before has its times in another unit."""

_LATE = 4_102_444_800
"""Seconds from 1970 until 2100: later times are likely in another unit."""

FINER = {"s": "set unit to 'ms', 'us' or 'ns'", "ms": "set unit to 'us' or 'ns'", "us": "set unit to 'ns'"}
"""What to do where times lie far beyond today, by the unit that they were read in."""

_FAR_FUTURE = 1e11
"""Seconds, in the year 5138: times beyond it are in another unit."""

RAW = '"user" VARCHAR, item VARCHAR, time DOUBLE, label BOOLEAN, __fault VARCHAR'
"""Columns of the table of events as they are read."""


@dataclass
class LogReport:
    """Hold what became of the rows of a log."""

    faults: Faults = field(default_factory=Faults)
    negatives: int = 0
    """Events that the label rule calls negative."""
    negatives_dropped: int = 0
    repeats: int = 0
    """Events that repeat an earlier event's user and item."""
    repeats_dropped: int = 0
    core_dropped: int = 0
    """Events of users and items with too few."""
    events: int = 0
    """Kept in the end."""
    early: int = 0
    """Events, all of the log's, that lie before 1972: times of another unit."""
    none: int = 0
    """Events with a time of 0 or less, where others lie in 1972 or later: times that are missing."""
    late: int = 0
    """Events after 2100."""
    mixed: int = 0
    """Events after 1970 and before 1972, where others lie later: times of two units."""
    step: float = 0.0
    """Seconds, or places, between neighbouring times where 32-bit floats have lost what is finer; else 0."""


class Times(NamedTuple):
    """Count times of some events that may be of another unit or have lost digits."""

    far: bool
    """Whether one lies beyond the year 5000."""
    step: float
    """Seconds, or places, between the latest time and its neighbour in 32-bit floats; 0 in other columns."""
    every: int
    """Events."""
    early: int
    """Events before 1972."""
    none: int
    """Events with a time of 0 or less."""
    late: int
    """Events after 2100."""


def read_log(connection: Any, spec: Spec, work: Path, progress: Progress) -> LogReport:
    """Fill the table ``raw_events``: user and item as text, time, label; its rowid is the order of the files.

    Raises:
        InputError: if a file or column is missing, or too many rows are malformed.
    """
    report = LogReport()
    connection.execute(f"CREATE TABLE raw_events ({RAW})")
    name, step = load_events(connection, spec, work, report.faults, progress)
    check_log(spec, report, name, times_of(connection, step))
    return report


def check_log(spec: Spec, report: LogReport, name: str, times: Times) -> None:
    """Refuse a log whose rows or times are not what the spec says.

    Args:
        spec: the spec.
        report: with the faults of all files; its ``early``, ``none``, ``late``, ``mixed`` and ``step`` are set.
        name: of the last file.
        times: of all files.

    Raises:
        InputError: if too many rows are malformed, or times are of another unit.
    """
    log = spec.interactions
    name = name if len(log.source.path) == 1 else "log"
    report.faults.check(log.max_bad_share, name)
    report.step = times.step if times.step > 1 else 0.0
    if not log.time or log.unit == "order":
        return
    if times.far:
        raise InputError(
            f"{name}: times in column {shown(log.time)} lie beyond the year 5000 when read as unit '{log.unit}'; "
            + FINER.get(log.unit, "they are no Unix times")
        )
    if times.early == times.every:
        report.early = times.early
    else:
        report.none, report.late, report.mixed = times.none, times.late, times.early - times.none


def load_events(connection: Any, spec: Spec, work: Path, faults: Faults, progress: Progress) -> tuple[str, float]:
    """Append the events of all files to ``raw_events``, in their order.

    Returns:
        The name of the last file, and the ``step`` of `Times`.
    """
    name, step, log = "log", 0.0, spec.interactions
    for relation in relations(connection, spec.interactions.source, spec.folder, work, spec.numbers):
        progress(f"reading {relation.path.name}")
        name = relation.path.name
        select, fault = _select(connection, relation, spec)
        load(connection, "raw_events", relation, select, fault, faults)
        if log.time and relation.types[log.time] == "FLOAT":
            time = f"max(abs({seconds_of(log.time, 'FLOAT', log.unit)}))"
            largest = one(connection, f"SELECT {time} FROM {relation.sql}") or 0.0
            step = max(step, _step(largest, UNITS_A_SECOND.get(log.unit, 1)))
    return name, step


def _step(seconds: float, units: int) -> float:
    """How far the neighbour of a time lies in 32-bit floats of that many units a second: they keep 24 binary digits."""
    return math.ldexp(1.0, math.frexp(seconds * units)[1] - 24) / units


def times_of(connection: Any, step: float) -> Times:
    """Return the counts of times in ``raw_events`` that may be of another unit; ``step`` as `load_events` found it."""
    sound = "FILTER (__fault IS NULL"
    far, *counts = connection.execute(
        f"SELECT coalesce(max(abs(time)) > {_FAR_FUTURE}, false), count(*) {sound}), "
        f"count(*) {sound} AND time < {_EARLY}), count(*) {sound} AND time <= 0), "
        f"count(*) {sound} AND time >= {_LATE}) FROM raw_events"
    ).fetchall()[0]
    return Times(far, step, *counts)


def _select(connection: Any, relation: Relation, spec: Spec) -> tuple[str, str]:
    """The columns of an event, and the text that says why a row cannot be used."""
    log, label = spec.interactions, spec.label
    user, item = (id_text_of(connection, relation, name) for name in (log.user, log.item))
    object_or = "no JSON object, or " if relation.format == "jsonl" else ""
    faults = [f"WHEN ({user}) IS NULL THEN '{object_or}no user'", f"WHEN ({item}) IS NULL THEN 'no item'"]
    time = "NULL"
    if log.time:
        time = seconds_of(log.time, relation.require(log.time), log.unit)
        expected = "a date" if log.unit == "iso" else "a number"
        is_date = f"isfinite(TRY_CAST({text_of(log.time, relation.types[log.time])} AS TIMESTAMPTZ))"
        more = f" || CASE WHEN {is_date} THEN {literal(A_DATE)} ELSE '' END" if log.unit != "iso" else ""
        faults.append(_fault(time, log.time, relation, expected) + more)
    numbers = [log.value] if log.value else []
    positive = "NULL"
    if label is not None:
        column = label.column or log.value
        kind = relation.require(column)
        if label.at_least is not None:
            numbers.append(column)
            positive = f"{number_of(column, kind)} >= {label.at_least!r}"
        else:
            positive = _equals(column, kind, label)
            faults.append(_fault(positive, column, relation, "given"))
    for column in dict.fromkeys(numbers):
        number = number_of(column, relation.require(column))
        faults.append(_fault(number, column, relation, "a number"))
    return f"{user}, {item}, {time}, {positive}", f"CASE {' '.join(faults)} END"


def _fault(value: str, column: str, relation: Relation, expected: str) -> str:
    shown = f"coalesce('''' || left({text_of(column, relation.types[column])}, 40) || '''', 'missing')"
    return f"WHEN ({value}) IS NULL THEN {literal(column + ' is ')} || {shown} || {literal(', not ' + expected)}"


def _equals(column: str, kind: str, label: Label) -> str:
    if isinstance(label.equals, str):
        text = f"({text_of(column, kind)})"
        form = form_of_text(label.equals)
        if form == "booleans":
            return f"lower({text}) = {literal(label.equals.lower())}"
        return f"{canonical(text, form)} = {canonical(literal(label.equals), form)}"
    other = f"CASE WHEN ({text_of(column, kind)}) IS NOT NULL THEN false END"
    return f"coalesce({number_of(column, kind)} = {float(label.equals or 0)!r}, {other})"
