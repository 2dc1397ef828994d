"""Time column of a frame: datetimes with and without a zone, dates, texts, and numbers of any unit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twotower.core.errors import InputError, unknown_name
from twotower.data.frame_guesses import guess_unit
from twotower.data.frame_notices import Notices
from twotower.data.frame_reader import types_of
from twotower.data.prepare.database import literal, one, parquet, quoted
from twotower.data.prepare.spec import TIME_UNITS
from twotower.data.prepare.values import number_of, text_of

UNITS = tuple(dict.fromkeys((*TIME_UNITS, "ns")))
_WORDS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}


def read_times(connection: Any, path: Path, column: str, unit: str | None, zone: str, notices: Notices) -> str:
    """Find out how to read the time column of a stored frame; nanoseconds are rewritten as microseconds.

    Args:
        connection: to DuckDB.
        path: the Parquet file of the frame.
        column: of it.
        unit: given by the caller; None: guessed.
        zone: of the column's type; empty: none or unknown.
        notices: hear what was guessed or converted.

    Returns:
        The unit for the spec.

    Raises:
        InputError: if the column holds no moments, or the unit does not go with it.
    """
    if unit is not None and unit not in UNITS:
        raise unknown_name("unit", unit, UNITS)
    source = parquet(path)
    kind = types_of(connection, source)[column]
    if kind.startswith(("TIMESTAMP", "DATE")):
        return _clock(kind, column, unit, zone, notices)
    if kind.startswith(("INTERVAL", "TIME", "BOOLEAN", "STRUCT", "MAP", "BLOB")) or kind.endswith("]"):
        raise InputError(f"events: time column '{column}' is of type {kind}, not a moment; give datetimes or numbers")
    if kind == "VARCHAR" and unit is None:
        texts = f"FROM {source} WHERE {text_of(column, kind, quoted)} IS NOT NULL"
        if one(connection, f"SELECT count(*) {texts} AND {number_of(column, kind, quoted)} IS NULL"):
            notices.tell(f"times in '{column}' are read as dates in text; those without an offset are taken as UTC")
            return "iso"
    if unit is None:
        unit = unit_of_numbers(connection, source, column, kind, notices)
    if unit != "ns":
        return unit
    number = f"{quoted(column)} // 1000" if "INT" in kind else f"floor({number_of(column, kind, quoted)} / 1000)"
    rewritten = path.with_name(path.name + ".us")
    connection.execute(
        f"COPY (SELECT * REPLACE ({number} AS {quoted(column)}) FROM {source}) TO {literal(rewritten)} (FORMAT parquet)"
    )
    rewritten.replace(path)
    return "us"


def _clock(kind: str, column: str, unit: str | None, zone: str, notices: Notices) -> str:
    if unit not in (None, "iso", "order"):
        raise InputError(f"events: unit='{unit}' is for numbers, and time column '{column}' has dates; leave unit out")
    if kind.startswith("DATE"):
        notices.tell(f"times in '{column}' are dates: midnight UTC; events of one day keep the order of the frame")
    elif "TZ" in kind or "TIME ZONE" in kind:
        if zone.upper() not in ("UTC", "ETC/UTC", "+00:00"):
            notices.tell(f"times in '{column}' carry {f'the zone {zone}' if zone else 'a zone'}: converted to UTC")
    else:
        notices.tell(f"times in '{column}' carry no zone: taken as UTC")
    return "order" if unit == "order" else "s"


def unit_of_numbers(connection: Any, source: str, column: str, kind: str, notices: Notices) -> str:
    """Guess the unit of a column of numbers by their size, and say so.

    Raises:
        InputError: if the column holds no number.
    """
    number = number_of(column, kind, quoted)
    smallest, largest, usual = connection.execute(
        f"SELECT min({number}), max({number}), median(abs({number})) FROM {source}"
    ).fetchall()[0]
    if largest is None:
        raise InputError(f"events: time column '{column}' holds no number and no date")
    unit = guess_unit(usual)
    span = f"times in '{column}' run from {smallest:,.0f} to {largest:,.0f}"
    if unit == "order":
        notices.tell(
            f"{span}, too small for Unix times: taken as places in an order, without a clock; give unit='s' if they "
            "are seconds",
            doubtful=True,
        )
    else:
        notices.tell(f"{span}: taken as Unix {_WORDS[unit]}; give unit if they are not")
    return unit
