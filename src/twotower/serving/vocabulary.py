"""Vocabulary: outside ids and their rows, both ways, and the raw columns of a row, read from a Parquet file."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from twotower.core.errors import InputError, shown
from twotower.core.files import replacing_file
from twotower.data.prepare.database import literal, parquet, quoted
from twotower.data.prepare.values import plain_text
from twotower.serving.columns import plain

log = logging.getLogger(__name__)


class UnknownIdError(InputError):
    """Report an id that the bundle does not know; a server answers it otherwise than a malformed request."""


class Record(NamedTuple):
    """Hold what is known of one row: its outside id and its raw columns."""

    id: str
    columns: dict[str, Any]


class Vocabulary:
    """Map the ids of one side to rows and back, by a Parquet file of row, id and raw columns.

    A question reads only what it needs of the file, so that the first answer comes at once; `preload` holds the file
    in memory, for a server that asks often.

    Args:
        path: the Parquet file.
        what: "user" or "item", for errors.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        self.what = what
        self._row_of: dict[str, int] | None = None
        self._record_of: dict[int, Record] = {}

    def preload(self) -> None:
        """Hold ids and raw columns in memory: about 1 kB a row. The file is not read again."""
        self._record_of = self._read("SELECT * FROM vocabulary")
        with self._connection.cursor() as cursor:
            cursor.execute("CREATE OR REPLACE TABLE held AS SELECT row, id FROM vocabulary")
            cursor.execute("CREATE OR REPLACE VIEW vocabulary AS SELECT row, id FROM held")
        self._row_of = {record.id: row for row, record in self._record_of.items()}

    def rows(self, ids: Iterable[object]) -> list[int]:
        """Return the row of each id, in order; ids are text, and what is not is taken by its text.

        Raises:
            InputError: if an id is unknown (names the closest known one), or ``ids`` is no list.
        """
        texts = self.texts(ids)
        found = self.known(texts)
        for text in texts:
            if text not in found:
                raise UnknownIdError(f"unknown {self.what} {shown(text)}; {self._closest(text)}")
        return [found[text] for text in texts]

    def rows_of_known(self, ids: Iterable[object], *, required: bool = True) -> list[int]:
        """Return the rows of those ids that are known, in order; the others are named in a warning.

        Raises:
            InputError: if ids are given and none of them is known (names the closest) while one is ``required``, or
                ``ids`` is no list.
        """
        texts = self.texts(ids)
        found = self.known(texts)
        missing = [text for text in dict.fromkeys(texts) if text not in found]
        if missing and not found and required:
            raise UnknownIdError(f"unknown {self.what} {shown(missing[0])}; {self._closest(missing[0])}")
        if missing:
            first = ", ".join(shown(text, 40) for text in missing[:5]) + (", …" if len(missing) > 5 else "")
            log.warning("%d of %d %ss are unknown here and left aside: %s", len(missing), len(texts), self.what, first)
        return [found[text] for text in texts if text in found]

    def texts(self, ids: Iterable[object]) -> list[str]:
        """Return ids as text.

        Raises:
            InputError: if ``ids`` is no list: a text alone would be read letter by letter; or if an id is a float too
                large to have kept its last digits.
        """
        if isinstance(ids, str | bytes) or not isinstance(ids, Iterable) or getattr(ids, "ndim", 1) == 0:
            raise InputError(f"ids of {self.what}s come as a list, got {shown(ids)}")
        given = list(ids.numpy(force=True) if isinstance(ids, Tensor) else ids)
        for id in given:
            if isinstance(id, float | np.floating) and abs(float(id)) >= 2 / float(np.finfo(type(id)).eps):
                raise InputError(
                    f"{self.what} {plain_text(id)} is a {np.dtype(type(id))}, in which neighbouring ids this large are "
                    "one; give whole numbers or text"
                )
        return [plain_text(id) for id in given]

    def known(self, ids: Sequence[str]) -> dict[str, int]:
        """Return the rows of those ids that are known."""
        if self._row_of is not None:
            return {id: self._row_of[id] for id in ids if id in self._row_of}
        if not len(ids):
            return {}
        return dict(self._ask("SELECT id, row FROM vocabulary WHERE id IN (SELECT unnest(?::VARCHAR[]))", list(ids)))

    def ids(self, rows: Sequence[int]) -> list[str]:
        """Return the id of each row, in order."""
        return [record.id for record in self.records(rows)]

    def records(self, rows: Sequence[int]) -> list[Record]:
        """Return the id and the raw columns, as plain values, of each row, in order."""
        found = self._record_of
        if self._row_of is None:
            question = "SELECT * FROM vocabulary WHERE row IN (SELECT unnest(?::BIGINT[]))"
            found = self._read(question, list(rows))
        return [found[row] for row in rows]

    @cached_property
    def _connection(self) -> Any:
        import duckdb

        connection = duckdb.connect()
        source = parquet(self.path)
        connection.execute(f"CREATE VIEW vocabulary AS SELECT * FROM {source}")
        return connection

    def _ask(self, question: str, *values: Any) -> list[tuple[Any, ...]]:
        # A cursor of its own for each question: threads of a server may ask at the same time.
        answer: list[tuple[Any, ...]] = self._connection.cursor().execute(question, values).fetchall()
        return answer

    def _read(self, question: str, *values: Any) -> dict[int, Record]:
        cursor = self._connection.cursor().execute(question, values)
        names = [column[0] for column in cursor.description]
        found = {}
        for row in cursor.fetchall():
            columns = {name: plain(value) for name, value in zip(names, row, strict=True)}
            found[columns.pop("row")] = Record(columns.pop("id"), columns)
        return found

    def _closest(self, id: str) -> str:
        whole, _, fraction = id.partition(".")  # tables with gaps make floats of whole numbers
        if fraction and not fraction.strip("0") and self.known([whole]):
            return f"did you mean {shown(whole)}?"
        near = self._ask(
            "SELECT id, damerau_levenshtein(lower(id), lower(?)) AS distance FROM vocabulary "
            "WHERE abs(length(id) - ?) <= ? ORDER BY 2, row LIMIT 1",
            id,
            len(id),
            most := max(1, len(id) // 3),
        )
        if near and near[0][1] <= most:
            return f"did you mean {shown(near[0][0])}?"
        some = self._ask("SELECT id FROM vocabulary ORDER BY row LIMIT 3")
        return "known ids look like " + ", ".join(shown(row[0], 40) for row in some) if some else "there are none"


def append_items(path: Path, rows: Sequence[int], ids: Sequence[str], columns: Sequence[dict[str, Any]]) -> None:
    """Append new rows with their ids and raw columns to a vocabulary.

    Columns that it does not have are left out, and so are values that are not of a column's type; a warning says so.

    Args:
        path: the Parquet file, replaced whole.
        rows: row numbers.
        ids: outside ids.
        columns: raw columns of each row, by name.
    """
    import duckdb

    with duckdb.connect() as connection, replacing_file(path) as partial:
        connection.execute(f"CREATE TABLE vocabulary AS SELECT * FROM {parquet(path)} ORDER BY row")
        kinds = dict(connection.execute("SELECT column_name, column_type FROM (DESCRIBE vocabulary)").fetchall())
        names = [name for name in kinds if name not in ("row", "id")]
        if extra := sorted({name for record in columns for name in record} - set(names)):
            log.warning("columns that the catalogue does not have are left out: %s", ", ".join(map(shown, extra[:5])))
        given: dict[str, Any] = {"row": np.array(rows, dtype=np.int64), "id": np.array(ids, dtype=object)}
        casts = {}
        for place, name in enumerate(names):
            values = [record.get(name) for record in columns]
            texts = [_text(value, nested=_is_nested(kinds[name])) for value in values]
            given[f"c{place}"] = np.array(texts, dtype=object)
            text = f"c{place}::VARCHAR" + ("::JSON" if _is_nested(kinds[name]) else "")
            casts[name] = f"TRY_CAST({text} AS {kinds[name]})"
        connection.register("given", given)
        for place, (name, cast) in enumerate(casts.items()):
            lost = f"SELECT count(*) FROM given WHERE c{place} IS NOT NULL AND {cast} IS NULL"
            (number,) = connection.execute(lost).fetchone() or (0,)
            if number:
                log.warning("column %s: %d values are no %s and are left out", shown(name), number, kinds[name])
        listed = ", ".join(quoted(name) for name in ("row", "id", *names))
        connection.execute(
            f"INSERT INTO vocabulary ({listed}) SELECT {', '.join(['row', 'id::VARCHAR', *casts.values()])} FROM given"
        )
        connection.execute(f"COPY (SELECT * FROM vocabulary ORDER BY row) TO {literal(partial)} (FORMAT parquet)")


def _is_nested(kind: str) -> bool:
    return kind.endswith("]") or kind.startswith(("STRUCT", "MAP")) or kind == "JSON"


def _text(value: Any, *, nested: bool) -> str | None:
    if value is None:
        return None
    if nested or isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def write_row_vocabulary(path: Path, num_rows: int) -> None:
    """Write a vocabulary for rows that never had outside ids: the id of a known row is its number."""
    import duckdb

    target = str(path).replace("'", "''")
    question = f"SELECT row, row::VARCHAR AS id FROM range(2, {int(num_rows)}) AS known(row)"
    duckdb.connect().execute(f"COPY ({question}) TO '{target}' (FORMAT parquet)")
