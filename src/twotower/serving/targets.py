"""Targets of parts: a folder beside a Parquet file that they become, or the folder or address that is named."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twotower.core.address import is_address
from twotower.core.errors import InputError
from twotower.core.files import replacing_file
from twotower.core.folders import check_outside
from twotower.core.lock import writing_alone
from twotower.core.parts import Note, finish_parts
from twotower.core.store import Store
from twotower.data.prepare.database import database, literal, parquet


def parquet_file(to: Path | str) -> Path | None:
    """Return the file to write; None for a folder of parts.

    Raises:
        InputError: if the name is neither, or as `check_outside`.
    """
    if is_address(to):
        if str(to).lower().endswith(".parquet"):
            raise InputError(f"{to}: an address takes a folder of parts; name it without .parquet")
        return None
    path = Path(to)
    check_outside(path)
    if path.suffix.lower() == ".parquet":
        if path.is_dir():
            raise InputError(f"{path}: a folder; name a file to write")
        return path
    if path.suffix:
        raise InputError(f"{path}: name it *.parquet, or without an ending for a folder of parts")
    return None


@contextlib.contextmanager
def parts_of(to: Path | str, file: Path | None) -> Iterator[Store]:
    """Open the folder of the parts, and hold the target against other processes of this machine.

    Raises:
        InputError: if another process writes it.
        ConnectionError: if an address cannot be reached.
    """
    store = Store(str(to) if file is None else str(file.with_name(f".{file.name}.parts")))
    target = file or store.local
    with writing_alone(target) if target is not None else contextlib.nullcontext():
        yield store


def end_parts(store: Store, plan: dict[str, Any], notes: list[Note], file: Path | None) -> None:
    """Make the parts one file, with what was asked in its metadata, or a whole by their manifest."""
    if file is None:
        finish_parts(store, plan, notes)
        return
    listed = parquet(*(Path(store.path) / note["name"] for note in notes))
    said = json.dumps({name: value for name, value in plan.items() if name != "part"}, ensure_ascii=False)
    with (
        tempfile.TemporaryDirectory(prefix="twotower-") as name,
        database(Path(name)) as connection,
        replacing_file(file) as partial,
    ):
        connection.execute(
            f"COPY (SELECT * FROM {listed}) TO {literal(partial)} "
            f"(FORMAT parquet, COMPRESSION zstd, KV_METADATA {{twotower: {literal(said)}}})"
        )
    shutil.rmtree(store.path)
