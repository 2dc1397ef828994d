"""Item states of a bundle as vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twotower.core.errors import InputError
from twotower.core.files import read_json
from twotower.core.manifest import check_signed
from twotower.diagnosis.readers.arrays import read_npy, read_tensor
from twotower.diagnosis.readers.parquet import only_file
from twotower.diagnosis.table import Account, Table

DEAD = 0.05
"""A code with fewer tokens than this share of the mean is not in use."""


def read_bundle(folder: Path, column: str | None = None) -> Table:
    """Read the item states, or their part ``column``, with the outside ids and how often each item was seen.

    Raises:
        InputError: if the folder has no item states, or a file that was changed, is missing or was added.
    """
    states, ids = folder / "items" / "states.safetensors", folder / "items" / "ids.npy"
    if not states.is_file():
        raise InputError(f"{folder}: not a bundle with item states (no items/states.safetensors)")
    _check(folder)
    table = _states(folder, states) if column is None else read_tensor(states, column)
    if not ids.is_file():
        return table
    rows = read_npy(ids).vectors
    if len(rows) != len(table.vectors):
        raise InputError(f"{folder}: {len(table.vectors)} item states but {len(rows)} ids; export the bundle again")
    return table._replace(ids=_names(folder, rows), popularity=_popularity(folder, rows))


def _check(folder: Path) -> None:
    """Compare the files with the manifest, where there is one: item states alone are judged too."""
    if (folder / "manifest.json").is_file():
        manifest = read_json(folder / "manifest.json")
        if not isinstance(manifest, dict) or not isinstance(manifest.get("hashes"), dict):
            raise InputError(f"{folder}: its manifest.json is not that of a bundle; take a fresh copy or train again")
        check_signed(folder, manifest, "bundle", "take a fresh copy or train again")


def _states(folder: Path, states: Path) -> Table:
    """The states as vectors: several vectors an item are laid end to end, parts that are no numbers left out.

    What `twotower.serving.compact` stored as whole numbers of each item's ``step`` is multiplied out.
    """
    import torch
    from safetensors.torch import load_file

    tensors = load_file(states)
    step = tensors.pop("step", None)
    if step is not None:
        tensors = {name: part.flatten(1) * step.float()[:, None] for name, part in tensors.items() if part.ndim > 1}
    parts = [part.flatten(1) for part in tensors.values() if part.is_floating_point() and part.ndim > 1]
    if sum(part.shape[1] for part in parts) < 2:
        raise InputError(f"{folder}: its model has no item vectors, so there is no geometry to judge")
    vectors = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
    return Table(
        vectors, account=Account(("item states",), notices=(*_codes(folder / "weights.safetensors"), *_lists(folder)))
    )


def _codes(weights: Path) -> tuple[str, ...]:
    """How the codebooks or the gate of a model that has any were used at the end of its training, in one sentence."""
    from safetensors import safe_open

    if not weights.is_file():
        return ()
    with safe_open(weights, "np") as file:
        if not {"coder.counts", "coder.started"} <= set(file.keys()) or not file.get_tensor("coder.started"):
            return ()
        counts = file.get_tensor("coder.counts").astype("f8")
    if not counts.any():
        return ()
    share = counts / counts.sum(1, keepdims=True)
    entropy = -(share * np.log(share.clip(1e-12))).sum(1)
    books, codes = share.shape
    used = (share >= DEAD / codes).mean()
    return (
        f"{books} codebook(s) of {codes} codes: {100 * used:.0f} % in use, perplexity "
        f"{np.exp(entropy).mean():.0f}, the busiest code has {100 * share.max(1).mean():.1f} % of the tokens, "
        f"{share.max(1).mean() * codes:.1f} times the mean",
    )


def _lists(folder: Path) -> tuple[str, ...]:
    """How long the lists of an index that has any are, in one sentence."""
    offsets = folder / "index" / "postings" / "offsets.npy"
    if not offsets.is_file():
        return ()
    lengths = np.diff(np.load(offsets, allow_pickle=False))
    if not len(lengths):
        return ()
    return (
        f"index of {len(lengths)} lists: {int((lengths == 0).sum())} empty, {lengths.mean():.0f} items on average, the "
        f"longest has {lengths.max()}",
    )


def _names(folder: Path, rows: Any) -> list[str]:
    """The outside id of each row, or its number where the bundle has no vocabulary."""
    vocabulary = folder / "vocabulary" / "items.parquet"
    if not vocabulary.is_file():
        return [str(row) for row in rows.tolist()]
    import duckdb

    with duckdb.connect() as connection:
        names = dict(
            connection.read_parquet(only_file(vocabulary), hive_partitioning=False).select("row, id").fetchall()
        )
    return [str(names.get(row, row)) for row in rows.tolist()]


def _counts(file: Path, count: int) -> NDArray[Any]:
    """The numbers in ``file``, one a stored item.

    Raises:
        InputError: if they are not as many.
    """
    counts = np.load(file, allow_pickle=False)
    if counts.shape != (count,):
        raise InputError(f"{file}: {counts.size} numbers for {count} items; export the bundle again")
    return counts.astype("f8")


def _popularity(folder: Path, rows: Any) -> NDArray[Any] | None:
    """How often each item is a positive in the events that the model learnt from; of an older bundle, in all."""
    learnt = folder / "items" / "events.npy"
    if learnt.is_file():
        return _counts(learnt, len(rows))
    events = folder / "histories" / "items.npy"
    if not events.is_file():
        return None
    items, labels = np.load(events, allow_pickle=False), folder / "histories" / "labels.npy"
    if labels.is_file():
        items = items[np.load(labels, allow_pickle=False) >= 0.5]
    counts = np.bincount(items, minlength=int(rows.max()) + 1)
    return counts[rows].astype("f8")
