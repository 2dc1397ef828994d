"""SQL that reads a cell as text, number, moment or list, whatever the column's type: one treatment for all formats."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any, NamedTuple

from twotower.data.prepare.database import column_sql, literal, one

_WHOLE = r"(-?(?:0|[1-9][0-9]*))(?:\.0+)?"
UNITS_A_SECOND = {"ms": 10**3, "us": 10**6, "ns": 10**9}
"""Of times in numbers that are finer than seconds."""
_NUMBER = r"-?(0|[1-9][0-9]*)(\.(0+|[0-9]*[1-9]))?"


def text_of(column: str, kind: str, name_sql: Callable[[str], str] = column_sql) -> str:
    """Return SQL of a cell as text; an empty one is NULL.

    ``name_sql`` is how the relation names its columns.

    A whole number in a column of floats or decimals loses its fraction of zeros, since tables with gaps turn
    integer ids into floats. Bytes are UTF-8.
    """
    name = name_sql(column)
    if kind == "BLOB":
        return f"nullif(coalesce(TRY(decode({name})), {name}::VARCHAR), '')"
    if kind.startswith("DECIMAL") and not kind.endswith((",0)", "]")):
        return rf"regexp_replace({name}::VARCHAR, '\.?0+$', '')"
    if kind in ("FLOAT", "DOUBLE"):
        whole = f"isfinite({name}) AND {name} = trunc({name}) AND abs({name}) < 1e37"
        return f"CASE WHEN {whole} THEN {name}::HUGEINT::VARCHAR WHEN NOT isnan({name}) THEN {name}::VARCHAR END"
    return f"nullif({name} ->> '$', '')" if kind == "JSON" else f"nullif({name}::VARCHAR, '')"


class Signs(NamedTuple):
    """Hold what all texts of a column have in common; None where there is no text."""

    numbers: bool | None
    booleans: bool | None


def signs_of(connection: Any, texts: str) -> Signs:
    """Return the signs of a query of one column ``value``."""
    return Signs(
        *connection.execute(
            f"SELECT bool_and(regexp_full_match(value, '{_NUMBER}')), bool_and(lower(value) IN ('true', 'false')) "
            f"FROM ({texts})"
        ).fetchall()[0]
    )


def form_of(connection: Any, texts: str) -> str:
    """Return the canonical form of a column's texts, by all of its values: numbers, booleans, or none ('').

    Numbers are whole or decimal numbers without needless zeros but for a fraction of zeros alone: 1, 1.000 and 2.5 are,
    007, 1e5, 1.10 and 1.0.2 are not.

    Args:
        connection: to the database.
        texts: a query of one column ``value``.
    """
    return form_by([signs_of(connection, texts)])


def form_by(signs: Iterable[Signs]) -> str:
    """Return the form of a column in parts, by the signs of each.

    Examples:
        >>> form_by([Signs(True, False), Signs(None, None)]), form_by([Signs(True, False), Signs(False, True)])
        ('numbers', '')
    """
    known = [sign for sign in signs if sign.numbers is not None]
    if not known:
        return ""
    return "numbers" if all(s.numbers for s in known) else "booleans" if all(s.booleans for s in known) else ""


def form_of_text(text: str) -> str:
    """Return the form of a column that holds this text alone."""
    return "numbers" if re.fullmatch(_NUMBER, text) else "booleans" if text.lower() in ("true", "false") else ""


def canonical(text: str, form: str) -> str:
    """Return SQL for the one spelling of a text in a column of a form: 1.000 is 1, and True is true."""
    if form == "numbers":
        return rf"regexp_replace({text}, '^{_WHOLE}$', '\1')"
    if form == "booleans":
        return f"CASE WHEN lower({text}) IN ('true', 'false') THEN lower({text}) ELSE {text} END"
    return text


def unify(connection: Any, columns: list[tuple[str, str]], elsewhere: Iterable[Signs] = ()) -> str:
    """Write the ids of one side, in (table, column) pairs, in one form and return it.

    Rows with a fault are not counted. ``elsewhere`` are the signs of ids that lie in parts.
    """
    texts = []
    for table, column in columns:
        fault = one(
            connection,
            f"SELECT count(*) FROM duckdb_columns() WHERE table_name = {literal(table)} AND column_name = '__fault'",
        )
        texts.append(f"SELECT {column} AS value FROM {table} {'WHERE __fault IS NULL' if fault else ''}")
    here = [signs_of(connection, " UNION ALL ".join(texts))] if texts else []
    form = form_by([*here, *elsewhere])
    for table, column in columns if form else []:
        changed = canonical(column, form)
        connection.execute(f"UPDATE {table} SET {column} = {changed} WHERE {column} <> {changed}")
    return form


def spelled(text: str) -> str:
    """Return SQL that is equal for all spellings of a text, whatever the form of its column turns out to be."""
    short = canonical(text, "numbers")
    return f"lower(CASE WHEN contains({text}, '.') THEN {short} ELSE {text} END)"


def plain_text(value: Any) -> str:
    """Return a value of Python as the text that `text_of` makes of it in a column.

    1.0 is 1, True is true, bytes are UTF-8.

    Examples:
        >>> plain_text(1.0), plain_text(Decimal("2.50")), plain_text(True), plain_text(b"a"), plain_text("1.0")
        ('1', '2.5', 'true', 'a', '1.0')
    """
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):  # a scalar of NumPy or PyTorch
        value = value.item()
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if isinstance(value, bool) or type(value).__name__ in ("bool", "bool_"):
        return str(value).lower()
    if isinstance(value, Decimal) and value.is_finite():
        text = format(value, "f")
        return text.rstrip("0").rstrip(".") if "." in text else text
    if hasattr(value, "is_integer") and value.is_integer():
        return str(int(value))
    return str(value)


def number_of(column: str, kind: str, name_sql: Callable[[str], str] = column_sql) -> str:
    """Return SQL of a cell as DOUBLE; NULL when it is missing or is not a finite number.

    ``name_sql`` as for `text_of`.
    """
    text = f"({name_sql(column)} ->> '$')" if kind == "JSON" else name_sql(column)
    number = f"TRY_CAST({text + '::VARCHAR' if _is_clock(kind) else text} AS DOUBLE)"
    if kind in ("VARCHAR", "JSON"):
        number = f"coalesce({number}, CASE lower(trim({text})) WHEN 'true' THEN 1 WHEN 'false' THEN 0 END)"
    return f"CASE WHEN isfinite({number}) THEN {number} END"


def with_points(cell: str) -> str:
    """Return SQL of a cell of text with decimal points for its decimal commas.

    A number alone that has a point is marked, and so is none: 1.234 may be a thousand there. A list of numbers that has
    points is left as it is.
    """
    marked = rf"WHEN regexp_full_match({cell}, '\s*[-+0-9.,eE]+\s*') THEN {cell} || ' (with a point)' ELSE {cell}"
    commas = rf"regexp_replace({cell}, ',([0-9])', '.\1', 'g')"
    return f"CASE WHEN NOT contains({cell}, '.') THEN {commas} {marked} END"


def seconds_of(column: str, kind: str, unit: str) -> str:
    """Return SQL of a cell as Unix seconds with fractions.

    Its place when the unit is 'order'; NULL when it is neither.

    A date without an offset is UTC.
    """
    if _is_clock(kind):
        return f"epoch_us({column_sql(column)}::TIMESTAMPTZ) / 1e6"
    if unit == "iso":
        return f"epoch_us(TRY_CAST({text_of(column, kind)} AS TIMESTAMPTZ)) / 1e6"
    return f"{number_of(column, kind)} / {UNITS_A_SECOND.get(unit, 1)}"


_QUOTED = r"""('([^'\\]|\\.)*'|"([^"\\]|\\.)*")"""
PART = rf"({_QUOTED}|[-+]?\d+(\.\d*)?([eE][-+]?\d+)?|None|null|nan|NaN)"
LIST_IN_TEXT = rf"\s*\[\s*({_QUOTED}(\s*,?\s*{_QUOTED})*\s*,?\s*)?\]\s*"
"""Pattern of a list that went through text: parts in quotes, parted by commas (Python, JSON) or by blanks (NumPy)."""
LIST_OF_ANY = rf"\s*\[\s*({PART}(\s*,\s*{PART}|\s+{PART}|{_QUOTED})*\s*,?\s*)?\]\s*"
"""The same, with numbers and signs of missing values among the parts, which commas or blanks part."""
_QUOTED_PARTS = rf"\s*{_QUOTED}(\s*,\s*{_QUOTED})*\s*,?\s*"
TUPLE_IN_TEXT = rf"\s*(\({_QUOTED_PARTS}\)|\{{{_QUOTED_PARTS}\}})\s*"
"""A tuple or a set of Python. Its parts are in quotes, since years and remarks stand in round brackets too."""


def words_of(column: str, kind: str, separator: str) -> str:
    """Return SQL of a cell as a list of texts, trimmed, without empty ones; NULL when the cell is missing.

    A text in square brackets whose every part is in quotes, a number or a sign of a missing value, as "['a', 'b']",
    '["a"]' or "[1, 2]", is a list in text; so is a tuple or a set of texts in quotes.
    """
    listed = _listed(column, kind, separator)
    if not kind.endswith("]"):
        text = text_of(column, kind)
        parts = f"regexp_extract_all({text}, {literal(PART)})"
        inner = r"regexp_replace(part[2:-2], '\\(.)', '\1', 'g')"
        word = f"CASE WHEN part[1] IN ('''', '\"') THEN {inner} ELSE part END"
        bare = f"[{word} FOR part IN ({parts}) IF part NOT IN ('None', 'null', 'nan', 'NaN')]"
        is_json = f"json_valid({text}) AND NOT contains(lower({text}), 'nan')"  # to DuckDB, a bare nan is JSON
        json = f"CASE WHEN {is_json} THEN TRY_CAST({text}::JSON AS VARCHAR[]) END"
        is_list = " OR ".join(f"regexp_full_match({text}, {literal(one)})" for one in (LIST_OF_ANY, TUPLE_IN_TEXT))
        listed = f"CASE WHEN {is_list} THEN coalesce({json}, {bare}) ELSE {listed} END"
    return f"[trim(word) FOR word IN ({listed}) IF trim(word) <> '']"


def floats_of(column: str, kind: str, separator: str) -> str:
    """Return SQL of a cell as FLOAT[]; what is not a number in it is NULL.

    Brackets around a text are dropped; within them, commas part the numbers where blanks are to.
    """
    listed = _listed(column, kind, separator)
    if not kind.endswith("]") and separator == " ":
        text = text_of(column, kind)
        bracketed = rf"regexp_full_match({text}, '\s*[\[(][^\[\]()]*[\])]\s*')"
        if kind == "JSON":  # a list of JSON needs no cutting
            bracketed += f" AND json_type({column_sql(column)}) = 'VARCHAR'"
        inner = rf"string_split(regexp_replace({text}, '[,\s]+', ' ', 'g'), ' ')"
        listed = f"CASE WHEN {bracketed} THEN {inner} ELSE {listed} END"
    return f"[TRY_CAST(word AS FLOAT) FOR word IN [trim(word, '[]() ') FOR word IN ({listed})] IF word <> '']"


def _listed(column: str, kind: str, separator: str) -> str:
    """A cell as a list of texts: a list as it is, a text cut at the separator."""
    if kind.endswith("]"):
        return f"{column_sql(column)}::VARCHAR[]"
    cut = f"string_split({text_of(column, kind)}, {literal(separator)})"
    return f"coalesce(TRY_CAST({column_sql(column)} AS VARCHAR[]), {cut})" if kind == "JSON" else cut


def _is_clock(kind: str) -> bool:
    return kind.startswith(("TIMESTAMP", "DATE"))
