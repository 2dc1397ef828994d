"""Finished cells of a table in files that a repository can hold, and back into a results folder.

``NAME-cells.jsonl.gz`` has one record a training, ``NAME-cells-users.npz`` what tests over users read, where that is
much followed by ``NAME-cells-users-2.npz`` and so on; numbers of users are kept as steps from one to the next. Runs
are compared by value: a later version may write the same run as other text, and then names its file otherwise.
"""

from __future__ import annotations

import gzip
import io
import json
import tomllib
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from twotower.core.files import read_json, replacing_file, write_json
from twotower.experiment.run import Run
from twotower.reproduce.study import TUNING_SEED, Cell, Table, seeded

LARGEST = 1_800_000
"""Bytes of a file of values at most; the values of one training stay together."""
STEPS = "users~steps"
"""In a file: what "users" is in a cell, less the number before each."""


class Back(NamedTuple):
    """Count what came of kept cells."""

    written: int
    """Cells that are in the results folder now and were not before."""
    unknown: int
    """Cells of the table's own file whose run is none of its rows any more."""


def kept_records(kept: Path, table: str) -> Path:
    """Return the path of a table's records in the folder ``kept``."""
    return kept / f"{table}-cells.jsonl.gz"


def kept_values(kept: Path, table: str) -> list[Path]:
    """Return the paths of a table's values of users in the folder ``kept``."""
    return sorted(kept.glob(f"{table}-cells-users*.npz"))


def keep_cells(table: Table, folder: Path, kept: Path) -> int:
    """Add a results folder's cells to the table's files in ``kept`` and return how many these hold now.

    A cell whose run is held already takes its place. Of the values of users the shown metrics are kept (those of
    views too), of trainings that only tuned none.
    """
    records, users = _read(kept, table.name)
    held = {_place(record): record for record in records}
    for path in sorted(folder.glob("*/*/seed-*.json")):
        record = read_json(path)
        tensors = path.with_suffix(".safetensors")
        if tensors.is_file() and record["seed"] != TUNING_SEED:
            record["users"] = f"{record['data']}/{record['variant']}/{path.stem}"
            wanted = _shown(table)
            shown = {name: part for name, part in load_file(tensors).items() if name in wanted}
            users |= {f"{record['users']}/{name}": part.numpy() for name, part in shown.items()}
        held[_place(record)] = record
    lines = [json.dumps(record, sort_keys=True) + "\n" for record in held.values()]
    named = {record["users"] for record in held.values() if "users" in record}
    with replacing_file(kept_records(kept, table.name)) as partial:
        partial.write_bytes(gzip.compress("".join(sorted(lines)).encode(), mtime=0))
    if named:
        _write_values({key: users[key] for key in sorted(users) if _cell_of(key) in named}, kept, table.name)
    return len(held)


def put_back(table: Table, kept: Path, folder: Path, *, others: Iterable[Table] = ()) -> Back:
    """Write kept cells where `run_table` looks for them, so that it goes on from there.

    Args:
        table: whose results folder ``folder`` is; what lies there stays.
        kept: the folder of the kept files.
        folder: of results.
        others: tables whose kept cells count too where they are measured by the same function and a row has the same
            run; the table's own come first.
    """
    written = unknown = 0
    for source in [table, *(other for other in others if other.name != table.name and other.measure == table.measure)]:
        records, users = _read(kept, source.name)
        rows: dict[str, dict[str, list[Cell]]] = {}
        for record in records:
            name, seed = record["data"], record["seed"]
            wanted = rows.setdefault(f"{name}/{seed}", {})
            if not wanted:
                wanted |= _cells(table, name, seed)
            cells = wanted.get(_value(Run.from_dict(tomllib.loads(record["run"]))), [])
            unknown += not cells and source is table
            for cell in cells:
                if not cell.path(folder).is_file():
                    _write(cell, record, users, folder)
                    written += 1
    return Back(written, unknown)


def _cells(table: Table, name: str, seed: int) -> dict[str, list[Cell]]:
    """Every training of a data set's rows under one seed, by the value of its run, which several rows may share."""
    cells = [
        Cell(table.name, name, Path(), variant, seeded(run, seed))
        for variant, runs in table.possible_runs(name).items()
        for run in runs
    ]
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        found.setdefault(_value(cell.run), []).append(cell)
    return found


def _write(cell: Cell, record: Mapping[str, Any], users: Mapping[str, np.ndarray], folder: Path) -> None:
    """Values of users first, then the record that makes the cell count as done."""
    path, prefix = cell.path(folder), f"{record.get('users', '')}/"
    found = {key.removeprefix(prefix): torch.from_numpy(users[key]) for key in users if key.startswith(prefix)}
    path.parent.mkdir(parents=True, exist_ok=True)
    if "users" in record:
        with replacing_file(path.with_suffix(".safetensors")) as partial:
            save_file(found, partial)
    kept = {key: value for key, value in record.items() if key != "users"}
    write_json(path, {**kept, "table": cell.table, "variant": cell.variant})


def _shown(table: Table) -> set[str]:
    """Metrics that pages test over users: the shown ones, those of views too."""
    prefixes = {"", *(prefix for _, prefix in table.views.values())}
    return {"users", *(f"{prefix}{name}" for prefix in prefixes for name in table.columns)}


def _cell_of(key: str) -> str:
    """The cell of a key of the file of users: "data/variant/seed-1-0a1b"."""
    return "/".join(key.split("/")[:3])


def _place(record: Mapping[str, Any]) -> tuple[str, str, str]:
    return record["data"], record["variant"], _value(Run.from_dict(tomllib.loads(record["run"])))


def _value(run: Run) -> str:
    """The run as one text that equal runs share, wherever data lie and whatever the device."""
    run = replace(run, data=replace(run.data, path=""), training=replace(run.training, device="auto"))
    return json.dumps(Run.from_dict(tomllib.loads(run.to_toml())).to_dict(), sort_keys=True)


def _write_values(values: Mapping[str, np.ndarray], kept: Path, table: str) -> None:
    """Write files of `LARGEST` bytes at most, cell after cell, in the place of those that were there."""
    before, written, buffers = kept_values(kept, table), [], [io.BytesIO()]
    by_cell: dict[str, dict[str, bytes]] = {}
    for key, value in values.items():
        is_users, buffer = key.endswith("/users"), io.BytesIO()
        np.save(buffer, np.diff(value, prepend=0) if is_users else value, allow_pickle=False)
        name = f"{key.removesuffix('users')}{STEPS}" if is_users else key
        by_cell.setdefault(_cell_of(key), {})[f"{name}.npy"] = buffer.getvalue()
    for cell in by_cell.values():
        part = _packed(cell)
        if len(buffers[-1].getvalue()) + len(part) > LARGEST and buffers[-1].getvalue():
            buffers.append(io.BytesIO())
        with zipfile.ZipFile(buffers[-1], "a", zipfile.ZIP_DEFLATED) as archive:
            for name, content in cell.items():
                archive.writestr(_entry(name), content)
    for number, buffer in enumerate(buffers, start=1):
        written.append(kept / f"{table}-cells-users{f'-{number}' if number > 1 else ''}.npz")
        with replacing_file(written[-1]) as partial:
            partial.write_bytes(buffer.getvalue())
    for path in before:
        if path not in written:
            path.unlink()


def _packed(cell: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in cell.items():
            archive.writestr(_entry(name), content)
    return buffer.getvalue()


def _entry(name: str) -> zipfile.ZipInfo:
    """Of a file in an archive, without the time of day."""
    entry = zipfile.ZipInfo(name)
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry


def _read(kept: Path, table: str) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    cells = kept_records(kept, table)
    if not cells.is_file():
        return [], {}
    records = [json.loads(line) for line in gzip.decompress(cells.read_bytes()).decode().splitlines()]
    values: dict[str, np.ndarray] = {}
    for path in kept_values(kept, table):
        with np.load(path, allow_pickle=False) as arrays:
            for key in arrays.files:
                is_steps = key.endswith(f"/{STEPS}")
                name = f"{key.removesuffix(STEPS)}users" if is_steps else key
                values[name] = arrays[key].cumsum() if is_steps else arrays[key]
    return records, values
