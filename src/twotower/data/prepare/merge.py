"""The merge of parts of users to the arrays of a log, a run of users at a time."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twotower.core.records import FIRST_KNOWN
from twotower.data.prepare.arrays import RowWriter
from twotower.data.prepare.database import parquet
from twotower.data.prepare.encode import ROWS
from twotower.data.prepare.log import Progress
from twotower.data.prepare.log_part import EVENTS, ITEMS
from twotower.data.prepare.select import CHUNK, columns_of
from twotower.data.prepare.spec import Spec


def write_merged(
    connection: Any, spec: Spec, parts: list[Path], folder: Path, num_users: int, progress: Progress
) -> None:
    """Write offsets, items, times and labels from parts of users and the tables ``users`` and ``items``.

    Users are in text order in each part as in ``users``, so that each part is read from its start to its end. In memory
    are the events of one part, or `CHUNK` of the log, and two numbers a user.
    """
    columns = columns_of(spec)
    record = np.dtype([(name, dtype) for name, (_, dtype) in columns.items()])
    streams = []
    for number, part in enumerate(parts):
        progress(f"numbering the items of part {number + 1:,} of {len(parts):,}")
        streams.append(part.with_suffix(".events"))
        _events(connection, part, columns, record).tofile(streams[-1])
        part.unlink()
    progress("writing the log")
    offsets, part_of = _users(connection, num_users)
    folder.mkdir()
    with contextlib.ExitStack() as files:
        opened = [files.enter_context(stream.open("rb")) for stream in streams]
        arrays = {
            name: files.enter_context(RowWriter(folder / f"{name}.npy", dtype, (int(offsets[-1]),)))
            for name, (_, dtype) in columns.items()
        }
        start = 0
        while start < num_users:
            end = max(start + 1, int(np.searchsorted(offsets, offsets[start] + CHUNK, side="right")) - 1)
            end = min(end, num_users)
            block = np.empty(int(offsets[end] - offsets[start]), dtype=record)
            begins, lengths = offsets[start:end] - offsets[start], np.diff(offsets[start : end + 1])
            for part_number in np.unique(part_of[start:end]).tolist():
                here = np.flatnonzero((part_of[start:end] == part_number) & (lengths > 0))
                counts = lengths[here]
                first = np.cumsum(counts) - counts
                places = np.repeat(begins[here] - first, counts) + np.arange(counts.sum())
                block[places] = np.fromfile(opened[part_number], record, int(counts.sum()))
            for name, array in arrays.items():
                array.append(block[name])
            start = end
    np.save(folder / "offsets.npy", offsets)
    for stream in streams:
        stream.unlink()


def _events(connection: Any, part: Path, columns: dict[str, tuple[str, Any]], record: np.dtype[Any]) -> NDArray[Any]:
    """The events of a part, items by their rows."""
    file = parquet(part)
    rows = connection.execute(
        f"SELECT coalesce(items.row, 0) AS row FROM {file} part LEFT JOIN items ON items.id = part.id "
        f"WHERE part.kind = {ITEMS} ORDER BY part.number"
    ).fetchnumpy()["row"]
    wanted = ", ".join("number AS i" if column == "i" else column for column, _ in columns.values())
    found = connection.execute(f"SELECT {wanted} FROM {file} WHERE kind = {EVENTS}").fetchnumpy()
    events = np.empty(len(found["i"]), dtype=record)
    for name, (column, _) in columns.items():
        events[name] = rows[found[column]] if column == "i" else found[column]
    return events


def _users(connection: Any, num_users: int) -> tuple[NDArray[np.int64], NDArray[np.int16]]:
    """Where each user's events begin, with an end, and the part that holds them."""
    offsets, part_of = np.zeros(num_users + 1, dtype=np.int64), np.zeros(num_users, dtype=np.int16)
    for start in range(FIRST_KNOWN, num_users, ROWS):
        end = min(start + ROWS, num_users)
        found = connection.execute(
            f"SELECT events, part FROM users WHERE row >= {start} AND row < {end} ORDER BY row"
        ).fetchnumpy()
        offsets[start + 1 : end + 1], part_of[start:end] = found["events"], found["part"]
    return np.cumsum(offsets, out=offsets), part_of
