"""Finished cells of a table in two files that a repository can hold, and back into a results folder.

``NAME-cells.jsonl.gz`` has one record a training, ``NAME-cells-users.npz`` what tests over users read. Runs are
compared by value: a later version may write the same run as other text, and then names its file otherwise.
"""

from __future__ import annotations

import gzip
import io
import json
import tomllib
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


class Back(NamedTuple):
    """Count what came of kept cells."""

    written: int
    """Cells that are in the results folder now and were not before."""
    unknown: int
    """Cells of the table's own file whose run is none of its rows any more."""


def kept_files(kept: Path, table: str) -> tuple[Path, Path]:
    """Return the paths of a table's two files in the folder ``kept``: records, and values of users."""
    return kept / f"{table}-cells.jsonl.gz", kept / f"{table}-cells-users.npz"


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
    cells, values = kept_files(kept, table.name)
    with replacing_file(cells) as partial:
        partial.write_bytes(gzip.compress("".join(sorted(lines)).encode(), mtime=0))
    if named:
        arrays: dict[str, Any] = {key: users[key] for key in sorted(users) if _cell_of(key) in named}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        with replacing_file(values) as partial:
            partial.write_bytes(buffer.getvalue())
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
        rows: dict[str, dict[str, Cell]] = {}
        for record in records:
            name, seed = record["data"], record["seed"]
            wanted = rows.setdefault(f"{name}/{seed}", {})
            if not wanted:
                wanted |= _cells(table, name, seed)
            cell = wanted.get(_value(Run.from_dict(tomllib.loads(record["run"]))))
            if cell is None:
                unknown += source is table
            elif not cell.path(folder).is_file():
                _write(cell, record, users, folder)
                written += 1
    return Back(written, unknown)


def _cells(table: Table, name: str, seed: int) -> dict[str, Cell]:
    """Every training of a data set's rows under one seed, by the value of its run."""
    cells = [
        Cell(table.name, name, Path(), variant, seeded(run, seed))
        for variant, runs in table.possible_runs(name).items()
        for run in runs
    ]
    return {_value(cell.run): cell for cell in cells}


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


def _read(kept: Path, table: str) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    cells, values = kept_files(kept, table)
    if not cells.is_file():
        return [], {}
    records = [json.loads(line) for line in gzip.decompress(cells.read_bytes()).decode().splitlines()]
    if not values.is_file():
        return records, {}
    with np.load(values, allow_pickle=False) as arrays:
        return records, {key: arrays[key] for key in arrays.files}
