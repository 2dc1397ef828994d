"""Outside ids and their rows, both ways, and the raw columns of a row: asked of the Parquet file, not held."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from twotower.core.errors import InputError
from twotower.serving.columns import plain


class Vocabulary:
    """One side's ids: a Parquet file of row, id and raw columns.

    A question reads only the columns and blocks of the file that it needs, so that the first answer comes at once;
    `preload` indexes the file in memory, for a server that asks often.

    Args:
        path: the Parquet file.
        what: "user" or "item", for errors.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        self.what = what

    @cached_property
    def _connection(self) -> Any:
        import duckdb

        connection = duckdb.connect()
        source = str(self.path).replace("'", "''")
        connection.execute(f"CREATE VIEW vocabulary AS SELECT * FROM read_parquet('{source}')")
        return connection

    def preload(self) -> None:
        """Hold the file in memory, indexed by row and by id."""
        self._connection.execute("CREATE TABLE held AS SELECT * FROM vocabulary")
        self._connection.execute("CREATE UNIQUE INDEX by_row ON held(row); CREATE UNIQUE INDEX by_id ON held(id)")
        self._connection.execute("CREATE OR REPLACE VIEW vocabulary AS SELECT * FROM held")

    def rows(self, ids: Sequence[str]) -> list[int]:
        """The row of each id, in order.

        Raises:
            InputError: if an id is unknown; names the closest known one.
        """
        found = self.known(ids)
        for id in ids:
            if id not in found:
                raise InputError(f"unknown {self.what} '{id}'; {self._closest(id)}")
        return [found[id] for id in ids]

    def known(self, ids: Sequence[str]) -> dict[str, int]:
        """The rows of those ids that are known."""
        return dict(self._ask("SELECT id, row FROM vocabulary WHERE id IN (SELECT unnest(?::VARCHAR[]))", list(ids)))

    def ids(self, rows: Sequence[int]) -> list[str]:
        """The id of each row, in order."""
        found = dict(self._ask("SELECT row, id FROM vocabulary WHERE row IN (SELECT unnest(?::BIGINT[]))", list(rows)))
        return [found[row] for row in rows]

    def columns(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """The raw columns of each row as plain values, in order; an id that no table described has none."""
        question = "SELECT * FROM vocabulary WHERE row IN (SELECT unnest(?::BIGINT[]))"
        cursor = self._connection.cursor().execute(question, [list(rows)])
        names = [column[0] for column in cursor.description]
        found = {}
        for values in cursor.fetchall():
            record = dict(zip(names, values, strict=True))
            found[record["row"]] = {k: plain(v) for k, v in record.items() if k not in ("row", "id")}
        return [found[row] for row in rows]

    def _ask(self, question: str, *values: Any) -> list[tuple[Any, ...]]:
        # A cursor of its own for each question: threads of a server may ask at the same time.
        answer: list[tuple[Any, ...]] = self._connection.cursor().execute(question, values).fetchall()
        return answer

    def _closest(self, id: str) -> str:
        near = self._ask(
            "SELECT id, damerau_levenshtein(lower(id), lower(?)) AS distance FROM vocabulary ORDER BY 2, row LIMIT 1",
            id,
        )
        if near and near[0][1] <= max(1, len(id) // 3):
            return f"did you mean '{near[0][0]}'?"
        some = self._ask("SELECT id FROM vocabulary ORDER BY row LIMIT 3")
        return "known ids look like " + ", ".join(f"'{row[0]}'" for row in some) if some else "there are none"


def write_row_vocabulary(path: Path, num_rows: int) -> None:
    """A vocabulary for rows that never had outside ids: the id of a known row is its number."""
    import duckdb

    target = str(path).replace("'", "''")
    question = f"SELECT row, row::VARCHAR AS id FROM range(2, {int(num_rows)}) AS known(row)"
    duckdb.connect().execute(f"COPY ({question}) TO '{target}' (FORMAT parquet)")
