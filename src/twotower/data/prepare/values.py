"""SQL that reads a cell as text, number, moment or list, whatever the column's type: one treatment for all formats."""

from __future__ import annotations

from twotower.data.prepare.database import literal, quoted


def text_of(column: str, kind: str) -> str:
    """A cell as text; an empty one is NULL.

    A whole number in a column of floats loses its '.0', since tables with gaps turn integer ids into floats.
    """
    name = quoted(column)
    if kind in ("FLOAT", "DOUBLE"):
        whole = f"isfinite({name}) AND {name} = trunc({name}) AND abs({name}) < 1e37"
        return f"CASE WHEN {whole} THEN {name}::HUGEINT::VARCHAR WHEN NOT isnan({name}) THEN {name}::VARCHAR END"
    return f"nullif({name} ->> '$', '')" if kind == "JSON" else f"nullif({name}::VARCHAR, '')"


def number_of(column: str, kind: str) -> str:
    """A cell as DOUBLE; NULL when it is missing or is not a finite number."""
    text = f"({quoted(column)} ->> '$')" if kind == "JSON" else quoted(column)
    number = f"TRY_CAST({text + '::VARCHAR' if _is_clock(kind) else text} AS DOUBLE)"
    return f"CASE WHEN isfinite({number}) THEN {number} END"


def seconds_of(column: str, kind: str, unit: str) -> str:
    """A cell as Unix seconds with fractions, or as its place when the unit is 'order'; NULL when it is neither.

    A date without an offset is UTC.
    """
    if _is_clock(kind):
        return f"epoch_us({quoted(column)}::TIMESTAMPTZ) / 1e6"
    if unit == "iso":
        return f"epoch_us(TRY_CAST({text_of(column, kind)} AS TIMESTAMPTZ)) / 1e6"
    return f"{number_of(column, kind)} / { ({'ms': '1e3', 'us': '1e6'}.get(unit, '1')) }"


def words_of(column: str, kind: str, separator: str) -> str:
    """A cell as a list of texts, trimmed, without empty ones; NULL when the cell is missing."""
    return f"[trim(word) FOR word IN {_listed(column, kind, separator)} IF trim(word) <> '']"


def floats_of(column: str, kind: str, separator: str) -> str:
    """A cell as FLOAT[]; what is not a number in it is NULL. Brackets around a text are dropped."""
    return (
        f"[TRY_CAST(word AS FLOAT) FOR word IN [trim(word, '[]() ') FOR word IN {_listed(column, kind, separator)}] "
        "IF word <> '']"
    )


def _listed(column: str, kind: str, separator: str) -> str:
    """A cell as a list of texts: a list as it is, a text cut at the separator."""
    if kind.endswith("]"):
        return f"{quoted(column)}::VARCHAR[]"
    cut = f"string_split({text_of(column, kind)}, {literal(separator)})"
    return f"coalesce(TRY_CAST({quoted(column)} AS VARCHAR[]), {cut})" if kind == "JSON" else cut


def _is_clock(kind: str) -> bool:
    return kind.startswith(("TIMESTAMP", "DATE"))
