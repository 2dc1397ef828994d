"""Report of vectors in a file, coloured by the columns beside them there."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from twotower.core.errors import InputError
from twotower.diagnosis.columns import is_key
from twotower.diagnosis.diagnose import Diagnosis
from twotower.diagnosis.load import load_table
from twotower.diagnosis.readers.opening import opened
from twotower.diagnosis.readers.parquet import only_file
from twotower.diagnosis.report.write import write_report
from twotower.diagnosis.table import POPULARITY_NAMES, TITLE_NAMES, VECTOR_NAMES

_OBJECTS = {".jsonl", ".ndjson", ".json"}
_TABLES = {".parquet", ".csv", ".tsv", *_OBJECTS}
_NUMBERS = ("INT", "FLOAT", "DOUBLE", "DECIMAL", "REAL")


def report_file(page: Path, diagnosis: Diagnosis, path: Path, *, column: str | None = None, seed: int = 0) -> None:
    """Write the report of the vectors in ``path``, which ``diagnosis`` is of.

    Raises:
        InputError: if the file cannot be read any more, or has changed since.
    """
    table = load_table(path, column=column)
    columns = columns_beside(path, column)
    if path.is_dir() and table.ids is not None:
        columns = columns_of_ids(path / "vocabulary" / "items.parquet", table.ids)
    if table.titles is not None:
        columns = {"title": table.titles, **columns}
    write_report(
        page,
        diagnosis,
        table.vectors,
        ids=table.ids,
        columns=columns,
        popularity=None if table.popularity is None else table.popularity.tolist(),
        title=path.name,
        seed=seed,
    )


def columns_beside(path: Path, column: str | None = None) -> dict[str, list[Any]]:
    """Return the columns of a table that are neither vectors nor ids, titles or popularity; none for other files.

    Where numeric columns together are the vectors, only the others count.
    """
    if path.suffix.lower() not in _TABLES:
        return {}
    kinds = _kinds(path)
    listed = column in kinds or any(
        kind.endswith("]") or name.strip().lower() in VECTOR_NAMES for name, kind in kinds.items()
    )
    known = {*TITLE_NAMES, *POPULARITY_NAMES, *VECTOR_NAMES}
    chosen = [
        name
        for name, kind in kinds.items()
        if name != column
        and name.strip().lower() not in known
        and not is_key(name)
        and not kind.endswith("]")
        and not kind.startswith(("STRUCT", "MAP"))
        and (listed or not any(number in kind for number in _NUMBERS))
    ]
    return _read(path, chosen)


def columns_of_ids(path: Path, ids: Sequence[str]) -> dict[str, list[Any]]:
    """Return the columns of a raw table in the order of ``ids``, which one of them holds; none when no column does."""
    if path.suffix.lower() not in _TABLES or not path.is_file():
        return {}
    columns = _read(path, [name for name, kind in _kinds(path).items() if not kind.endswith("]")])
    for name, values in columns.items():
        place = {str(value): row for row, value in enumerate(values)}
        if all(id in place for id in ids):
            rows = [place[id] for id in ids]
            return {
                other: [found[row] for row in rows] for other, found in columns.items() if other not in (name, "row")
            }
    return {}


def _kinds(path: Path) -> dict[str, str]:
    with _opened(path) as table:
        return dict(zip(table.columns, map(str, table.types), strict=True))


def _read(path: Path, names: list[str]) -> dict[str, list[Any]]:
    if not names:
        return {}
    with _opened(path) as table:
        quoted = ('"' + name.replace('"', '""') + '"' for name in names)
        values = zip(*table.select(", ".join(quoted)).fetchall(), strict=True)
        return {name: list(found) for name, found in zip(names, values, strict=True)}


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import duckdb

    with duckdb.connect() as connection:
        try:
            if path.suffix.lower() == ".parquet":
                yield connection.read_parquet(only_file(path), hive_partitioning=False)
            elif path.suffix.lower() in _OBJECTS:
                with _plain(path) as plain:
                    yield connection.read_json(
                        only_file(plain), format="newline_delimited", sample_size=-1, hive_partitioning=False
                    )
            else:
                with _plain(path) as plain:
                    yield connection.read_csv(only_file(plain), sample_size=-1, hive_partitioning=False)
        except duckdb.Error as error:
            raise InputError(f"{path}: cannot read its columns ({str(error).splitlines()[0]})") from None


@contextlib.contextmanager
def _plain(path: Path) -> Iterator[Path]:
    """Give the file itself, or where it is packed or in UTF-16 a plain copy in UTF-8."""
    with path.open("rb") as file:
        start = file.read(2)
    if start not in (b"\x1f\x8b", b"\xff\xfe", b"\xfe\xff"):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="twotower-") as folder, opened(path) as text:
        copy = Path(folder) / "table.csv"
        with copy.open("w", encoding="utf-8", newline="") as target:
            shutil.copyfileobj(text, target)
        yield copy
