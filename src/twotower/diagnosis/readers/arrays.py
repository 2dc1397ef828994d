"""Vectors from NumPy and safetensors files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twotower.core.errors import InputError, closest, shown
from twotower.diagnosis.columns import account_of, roles_of, without_keys
from twotower.diagnosis.table import VECTOR_NAMES, Account, Table


def read_npy(path: Path, column: str | None = None) -> Table:
    """Map the array from disk; a column of row numbers is no coordinate and stays out."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if isinstance(array, np.memmap) and array.offset + array.nbytes != path.stat().st_size:
        raise InputError(f"{path}: holds more than the {len(array):,} rows that its header tells; write it again")
    account, vectors, ids = without_keys(Account(), array)
    return Table(vectors, ids, account=account)


def read_npz(path: Path, column: str | None = None) -> Table:
    """Read the array ``column``, or the only 2-d one, and the arrays beside it with one value a row."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    name = choose(path, {name: array.shape for name, array in arrays.items()}, column, "array")
    vectors = arrays.pop(name)
    beside = {other: array for other, array in arrays.items() if len(vectors) and array.shape == (len(vectors),)}
    ids, titles, popularity, account = values_beside(beside)
    rest = {other: f"an array of shape {array.shape}" for other, array in arrays.items() if other not in beside}
    account = replace(account, vector=(name,), left_out={**account.left_out, **rest})
    account, vectors, keys = without_keys(account, vectors)
    return Table(vectors, keys if ids is None else ids, titles, popularity, account)


def read_safetensors(path: Path, column: str | None = None) -> Table:
    """Read the tensor ``column``, or the only 2-d one; a column of row numbers is no coordinate and stays out."""
    table = read_tensor(path, column)
    account, vectors, ids = without_keys(table.account, table.vectors)
    return Table(vectors, ids, account=account)


def read_tensor(path: Path, column: str | None = None) -> Table:
    """Read the tensor ``column``, or the only 2-d one, as it is."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        name = choose(path, shapes, column, "tensor")
        left = {other: f"a tensor of shape {tuple(shape)}" for other, shape in shapes.items() if other != name}
        return Table(file.get_tensor(name), account=Account((name,), left_out=left))


def choose(path: Path, shapes: dict[str, Sequence[int]], column: str | None, what: str) -> str:
    """Return the array to read: the named one, the only 2-d one, or the only 2-d one with a known name.

    Raises:
        InputError: if there is none, or too many to tell.
    """
    if column is not None:
        if column not in shapes:
            raise InputError(f"{path}: no {what} {shown(column)}; {closest(column, shapes)}")
        return column
    flat = [name for name, shape in shapes.items() if len(shape) == 2]
    told = [name for name in flat if name.lower() in VECTOR_NAMES]
    if len(flat) == 1 or len(told) == 1:
        return (told or flat)[0]
    found = ", ".join(f"{name} {tuple(shape)}" for name, shape in list(shapes.items())[:8]) or "nothing"
    raise InputError(f"{path}: which {what} holds the vectors? name one with --column; it holds {found}")


def plain_id(value: Any) -> str:
    """Return an id or a title as text: a whole number without a fraction, bytes as UTF-8, a missing value as none.

    Examples:
        >>> [plain_id(value) for value in (7.0, 0.5, b"a", "1.0", None, float("nan"))]
        ['7', '0.5', 'a', '1.0', '', '']
    """
    if isinstance(value, bytes | bytearray):
        return value.decode("utf-8", errors="replace")
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else "" if value != value else str(value)
    return "" if value is None else str(value)


def values_beside(
    columns: dict[str, NDArray[Any]], indexes: Iterable[str] = ()
) -> tuple[list[str] | None, list[str] | None, NDArray[Any] | None, Account]:
    """Return ids, titles and popularity among columns that are not vectors, and the account of all of them."""
    names = list(columns)
    roles = roles_of(names, tuple(indexes))
    ids, titles, popularity = (
        None if place is None else columns[names[place]] for place in (roles.id, roles.title, roles.popularity)
    )
    account = account_of(names, roles)
    rest = {name: "stands beside the vectors" for place, name in enumerate(names) if place not in roles.taken}
    account = replace(account, left_out={**account.left_out, **rest})
    if popularity is not None and popularity.dtype.kind not in "fiu":
        what = {str(account.popularity): "not numbers"}
        account, popularity = replace(account, popularity=None, left_out={**account.left_out, **what}), None
    return (
        None if ids is None else [plain_id(value) for value in ids.tolist()],
        None if titles is None else [plain_id(value) for value in titles.tolist()],
        None if popularity is None else popularity.astype("f8"),
        account,
    )
