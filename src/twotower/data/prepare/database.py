"""DuckDB with a memory limit and a folder to spill to; its errors come out as one line."""

from __future__ import annotations

import contextlib
import errno
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twotower.core.cores import cores
from twotower.core.errors import InputError, shown

NO_FOLDERS = "hive_partitioning = false"
"""Option of a reader: without it, folders called name=value on the way to a file replace its columns of these names."""


@contextlib.contextmanager
def database(work: Path, memory_limit: str = "1GB", *, in_memory: bool = False) -> Iterator[Any]:
    """Open a connection whose tables are in ``work``, so that memory stays below the limit however long they are.

    A path with a question mark is none to DuckDB, so such tables are in the system's temporary folder.

    Args:
        work: a folder.
        memory_limit: as 500MB or 2GB.
        in_memory: tables are in memory up to the limit and spill to ``work`` beyond it: quicker where they are small,
            since nothing is packed.

    Raises:
        InputError: if the limit is not a size, or is too small for the job.
        OSError: if the disk is full.
    """
    import duckdb

    size = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]i?B)\s*", memory_limit, re.IGNORECASE)
    if size is None or float(size[1]) <= 0:
        raise InputError(f"memory limit {shown(memory_limit)} is not a size; write it as 500MB or 2GB")
    try:
        with (
            _without_question_mark(work) as tables,
            duckdb.connect(
                ":memory:" if in_memory else str(tables / "work.duckdb"),
                config={"memory_limit": memory_limit, "temp_directory": str(tables / "spill"), "threads": cores()},
            ) as connection,
        ):
            connection.execute("SET enable_progress_bar = false")
            connection.execute("SET preserve_insertion_order = true")
            connection.execute("SET TimeZone = 'UTC'")
            yield connection
    except duckdb.OutOfMemoryException:
        raise InputError(f"memory limit {memory_limit} is too small for this data; raise it") from None
    except duckdb.Error as error:
        if _is_full(error):
            named = re.search(r'file \\?"([^"\\]+)', str(error))  # what was being written may lie on another disk
            raise OSError(errno.ENOSPC, "no space left on the disk", named[1] if named else str(work)) from None
        if isinstance(error, duckdb.IOException):
            raise InputError(_line(error)) from None
        raise
    except RuntimeError as error:
        if "interrupted" in str(error).lower():  # DuckDB's word for Ctrl-C
            raise KeyboardInterrupt from None
        raise


@contextlib.contextmanager
def _without_question_mark(work: Path) -> Iterator[Path]:
    if "?" not in str(work.resolve()):
        yield work
        return
    with tempfile.TemporaryDirectory(prefix="twotower-") as name:
        if "?" in str(Path(name).resolve()):
            raise InputError(f"the temporary folder {name} has a '?' in its path; set TMPDIR to one without")
        yield Path(name)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn a failure to read ``path`` into an `InputError` that names it."""
    import duckdb

    try:
        yield
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        if _is_full(error):
            raise
        raise InputError(f"{path}: cannot be read: {_line(error)}") from None


def literal(value: object) -> str:
    """Return a SQL string literal."""
    return "'" + str(value).replace("'", "''") + "'"


def as_pattern(path: object) -> str:
    """Return a SQL string of a path that readers take for this one file, whatever pattern signs its name holds."""
    return literal(only_file(path))


def parquet(*paths: object) -> str:
    """Return SQL that reads Parquet files by their own columns: a folder called item=3 above them is no column.

    Examples:
        >>> parquet("a.parquet")
        "read_parquet(['a.parquet'], hive_partitioning = false)"
    """
    return f"read_parquet([{', '.join(map(as_pattern, paths))}], {NO_FOLDERS})"


def only_file(path: object) -> str:
    """Return a path that readers take for this one file, whatever signs its name holds.

    Patterns of names and the home folder's ``~`` are rules of the readers, and none of ours.

    Examples:
        >>> only_file("a[1].csv")
        'a[[]1].csv'
    """
    text = str(path)
    if text.startswith("~"):
        text = str(Path(text).absolute())
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in text)


def quoted(column: str) -> str:
    """Return a SQL name in quotes."""
    return '"' + column.replace('"', '""') + '"'


def column_sql(column: str) -> str:
    """Return the name of a user's column inside the database: no name of ours, distinct also without case."""
    return '"c' + column.encode("utf-8", errors="surrogatepass").hex() + '"'


def one(connection: Any, query: str) -> Any:
    """Return the single value of a query."""
    return connection.execute(query).fetchall()[0][0]


def _is_full(error: Exception) -> bool:
    """Whether the disk is full: the engine says so in errors of several kinds."""
    text = str(error).lower()
    return "no space left" in text or (type(error).__name__ == "IOException" and "space" in text)


def _line(error: Exception) -> str:
    said = str(error).partition("\nLINE ")[0]  # behind it stands SQL of this program
    return " ".join(said.split())[:300]
