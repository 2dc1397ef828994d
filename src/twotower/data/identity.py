"""Identity of a data set, by content: equal sizes are no proof."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from torch import Tensor

from twotower.core.errors import InputError, shown
from twotower.data.dataset import Dataset
from twotower.data.prepare.database import parquet


def fingerprint(dataset: Dataset) -> str:
    """Return one hash of all that training reads, and of the ids behind its rows.

    Log, features, schema, vocabularies and the split that the data name.
    """
    hashes: dict[str, str] = dataset.manifest.get("hashes") or {}
    words = [repr(dataset.schema), *(f"{name} {hashes[name]}" for name in sorted(hashes) if "vocabulary/" in name)]
    words.append(json.dumps(stored_split(dataset), sort_keys=True))
    digest = hashlib.sha256("\n".join(words).encode())
    parts: list[tuple[str, Tensor | None]] = list(dataset.log._asdict().items())
    for side, columns in (("user", dataset.user_features), ("item", dataset.item_features)):
        parts += [(f"{side}.{name}", columns[name]) for name in sorted(columns)]
    for name, tensor in parts:
        if tensor is not None:
            digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def stored_split(dataset: Dataset) -> dict[str, Any]:
    """Return the kind and the options of the split that a data set names."""
    return dict(dataset.manifest.get("split") or {"kind": "leave-one-out"})


def check_same_numbers(mine: Path, other: Path, what: str) -> None:
    """Refuse two folders of vocabularies that give one number to two users or items; one may know more than the other.

    Args:
        mine: folder ``vocabulary`` of a bundle.
        other: that of another.
        what: the two in words, for the error.

    Raises:
        InputError: names the first row that differs.
    """
    import duckdb

    with duckdb.connect() as connection:
        for name in ("users.parquet", "items.parquet"):
            paths = [folder / name for folder in (mine, other)]
            if not all(path.is_file() for path in paths):
                continue
            here, there = (parquet(path) for path in paths)
            found = connection.execute(
                f"SELECT here.id, there.id FROM {here} AS here JOIN {there} AS there USING (row) "
                "WHERE here.id IS DISTINCT FROM there.id ORDER BY row LIMIT 1"
            ).fetchone()
            if found is not None:
                side = name.removesuffix(".parquet")
                raise InputError(
                    f"{what} number {side} differently: {shown(found[0])} in the one is {shown(found[1])} in the "
                    "other; train both on the same prepared data"
                )


def check_same_vocabulary(mine: Path, other: Path, what: str) -> None:
    """Refuse two folders of vocabularies whose rows represent other ids or values.

    Args:
        mine: folder ``vocabulary`` of a bundle.
        other: that of a prepared data set.
        what: the two in words, for the error: "bundle b and data d".

    Raises:
        InputError: names the first row that differs.
    """
    import duckdb

    with duckdb.connect() as connection:
        for name in sorted({path.name for folder in (mine, other) for path in folder.glob("*.parquet")}):
            if not ((mine / name).is_file() and (other / name).is_file()):
                raise InputError(f"{what} differ: only one of them has vocabulary/{name}; give the data of the model")
            here, there = (connection.sql(f"FROM {parquet(folder / name)}") for folder in (mine, other))
            key = "id" if "id" in here.columns else "value"
            if not {"row", key} <= set(here.columns) & set(there.columns):
                continue
            connection.register("here", here)
            connection.register("there", there)
            found = connection.execute(
                f"SELECT here.{key}, there.{key} FROM here FULL JOIN there USING (row) "
                f"WHERE here.{key} IS DISTINCT FROM there.{key} ORDER BY row LIMIT 1"
            ).fetchone()
            if found is not None:
                raise InputError(
                    f"{what} number {name.removesuffix('.parquet')} differently: '{found[0]}' is '{found[1]}' there; "
                    "give the data that the model was trained on"
                )
