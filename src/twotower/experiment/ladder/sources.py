"""From a log of the user's to prepared data beside the bundle: guessed or given spec, and what speaks against it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from twotower.core.errors import InputError
from twotower.core.files import read_json, sha256, write_json
from twotower.core.records import FIRST_KNOWN
from twotower.data.dataset import Dataset
from twotower.data.frame_notices import Notices
from twotower.data.frame_reader import Frame
from twotower.data.guess import Hints, guess_spec
from twotower.data.prepare.database import database
from twotower.data.prepare.prepare import prepare
from twotower.data.prepare.spec import Spec
from twotower.data.split import Split
from twotower.experiment.ladder.cut import choose_split

_FAR_MORE = 20
"""Items per user from which a notice asks whether the two columns are exchanged."""

Notice = Callable[[str], None]


def find_spec(folder: Path, tables: Mapping[str, Any], spec: Path | None, hints: Hints, notices: Notices) -> Spec:
    """Return the spec of a fit: the given one, else a guess, which is saved as ``data.toml`` in ``folder``.

    Args:
        folder: of the fit.
        tables: the log as ``events``, and ``items`` and ``users`` where there are any: paths or data frames.
        spec: a TOML that says it all.
        hints: what the caller says himself.
        notices: hear what was guessed.

    Raises:
        InputError: if neither or both of log and spec are given, or the guess fails.
    """
    given = {what: table for what, table in tables.items() if table is not None}
    if spec is not None:
        if given or hints != Hints():
            raise InputError("a spec names files and columns itself; give --spec alone, or a log without it")
        return Spec.from_toml(spec)
    if "events" not in given:
        raise InputError("name a log, or a spec with --spec")
    paths = {what: _as_file(what, table, folder / "raw") for what, table in given.items()}
    return guess_spec(paths["events"], items=paths.get("items"), users=paths.get("users"), hints=hints, notices=notices)


def _as_file(what: str, table: Any, folder: Path) -> Path:
    """A path as it is; a data frame as a Parquet file in ``folder``."""
    if isinstance(table, str | Path):
        return Path(table)
    frame = Frame.of(table, what)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{what}.parquet"
    with database(folder) as connection:
        frame.store(connection, path, frame.columns)
    for left in ("work.duckdb", "work.duckdb.wal"):
        (folder / left).unlink(missing_ok=True)
    shutil.rmtree(folder / "spill", ignore_errors=True)
    return path


def identity(spec: Spec) -> dict[str, Any]:
    """Return what a resumed fit must share with the stopped one: the spec, and the bytes of its files."""
    sources = [part.source for part in (spec.interactions, spec.items, spec.users) if part is not None]
    files = [spec.folder / name for source in sources for name in source.path]
    return {"spec": spec.to_dict(), "hashes": {str(path): sha256(path) for path in files if path.is_file()}}


def check_same(folder: Path, found: Mapping[str, Any]) -> bool:
    """Return whether there is a fit in ``folder`` to resume.

    Raises:
        InputError: if it had other data or another spec.
    """
    note = folder / "fit.json"
    if not note.is_file():
        return False
    if read_json(note) != found:
        raise InputError(f"{folder}: the fit that was stopped had another log or spec; start anew without --resume")
    return True


def prepare_log(spec: Spec, folder: Path, found: Mapping[str, Any], notice: Notice, *, guessed: bool) -> Dataset:
    """Prepare the data of a fit in ``folder``; a clock that never moves is dropped.

    Args:
        spec: of the data.
        folder: of the fit.
        found: the fit's `identity`, noted once the data are there.
        notice: hears what was done.
        guessed: whether the split is chosen here, and not by the spec.

    Raises:
        InputError: if the data cannot be used.
    """
    data = folder / "data"
    dataset = Dataset.load(prepare(spec, data), verify=False)
    times = dataset.log.times
    if times is not None and len(times) and bool((times == times[0]).all()):
        notice(f"all events have one time in '{spec.interactions.time}', so it tells no order and is left out")
        spec = replace(spec, interactions=replace(spec.interactions, time="", unit="s", duplicates="first"))
        dataset = Dataset.load(prepare(spec, data), verify=False)
    if guessed:
        kind, why = choose_split(dataset.log)
        notice(why)
        if kind != spec.split["kind"]:
            spec = replace(spec, split={"kind": kind})
            dataset = Dataset.load(prepare(spec, data), verify=False)
    for sentence in dataset.manifest["treatments"]:
        notice(sentence)
    users, items = (size - FIRST_KNOWN for size in (dataset.schema.num_users, dataset.schema.num_items))
    doubt = f"; are user '{spec.interactions.user}' and item '{spec.interactions.item}' exchanged?"
    exchanged = doubt if items > _FAR_MORE * users else ""
    notice(f"{users:,} users, {items:,} items, {dataset.log.num_events:,} events{exchanged}")
    check_lengths(dataset, spec)
    write_json(folder / "fit.json", dict(found))
    return dataset


def check_lengths(dataset: Dataset, spec: Spec) -> None:
    """Refuse a log whose users have too few events to learn from and to choose by.

    Raises:
        InputError: if no user has three positives.
    """
    most = int(dataset.log.positives().lengths.max())
    if most >= 3:
        return
    user, item = spec.interactions.user, spec.interactions.item
    if most < 2:
        raise InputError(
            f"every user has a single positive event, so there is nothing to learn from; is '{user}' the user, and not "
            f"an order or a row? Say it with --user NAME (item: '{item}')"
        )
    raise InputError(
        f"no user has three positive events (column '{user}'): one trains, one chooses the model and one tests it; "
        "popularity by itself needs no choice: twotower train --model popularity"
    )


def repeats(split: Split) -> float:
    """Return the share of validation events whose item the user had seen before."""
    truth, history = split.validation.truth, split.validation.history
    width = int(torch.cat([truth.items, history.items]).max()) + 1
    keys = truth.users() * width + truth.items
    seen = torch.isin(keys, history.users() * width + history.items)
    return float(seen.double().mean())
