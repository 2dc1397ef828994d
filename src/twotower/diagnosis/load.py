"""Vectors from files: arrays, tables, a FAISS index, a bundle. Nothing is unpickled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from twotower.core.errors import InputError, closest

ID_NAMES = ("id", "item_id", "user_id", "key", "code", "session_code")
TITLE_NAMES = ("title", "name", "label")
POPULARITY_NAMES = ("popularity", "count", "interactions")
VECTOR_NAMES = ("vector", "embedding", "state", "vectors", "embeddings")


class Table(NamedTuple):
    """Vectors [rows, dimensions] as an array, mapped from disk where the format allows, and what came beside them."""

    vectors: Any
    ids: list[str] | None = None
    titles: list[str] | None = None
    popularity: NDArray[Any] | None = None


def load_table(path: Path, *, column: str | None = None) -> Table:
    """Read vectors from ``path``.

    ====================  =============================================================================================
    .npy                  the array, mapped from disk
    .npz                  the array named ``column``, or the only 2-d one
    .safetensors          the tensor named ``column``, or the only 2-d one
    .parquet              the list column ``column``, or the only one, or all numeric columns together
    .csv, .tsv            all columns together, or ``column`` with a list of numbers in each cell
    .faiss, .index        the vectors that the index can rebuild
    a bundle (folder)     its item states
    ====================  =============================================================================================

    In tables, columns called id, item_id, …, title, name, …, popularity, count, … are taken for what they say.

    Raises:
        InputError: if the file is missing, of another kind, broken, or holds no vectors.
    """
    if path.is_dir():
        return _bundle(path, column)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(
            f"{path}: cannot read '{path.suffix or 'no suffix'}'; give {', '.join(READERS)}, or a bundle folder"
        )
    return reader(path, column)


def choose(path: Path, shapes: dict[str, Sequence[int]], column: str | None, what: str) -> str:
    """The array to read: the one asked for, the only 2-d one, or the only 2-d one with a telling name.

    Raises:
        InputError: if there is none, or too many to tell.
    """
    if column is not None:
        if column not in shapes:
            raise InputError(f"{path}: no {what} '{column}'; {closest(column, shapes)}")
        return column
    flat = [name for name, shape in shapes.items() if len(shape) == 2]
    told = [name for name in flat if name.lower() in VECTOR_NAMES]
    if len(flat) == 1 or len(told) == 1:
        return (told or flat)[0]
    found = ", ".join(f"{name} {tuple(shape)}" for name, shape in list(shapes.items())[:8]) or "nothing"
    raise InputError(f"{path}: which {what} holds the vectors? name one with --column; it holds {found}")


def _npy(path: Path, column: str | None) -> Table:
    try:
        return Table(np.load(path, mmap_mode="r", allow_pickle=False))
    except (ValueError, EOFError) as error:
        raise InputError(f"{path}: not a readable .npy array of numbers ({error})") from None


def _npz(path: Path, column: str | None) -> Table:
    import zipfile

    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a readable .npz of numbers ({error})") from None
    name = choose(path, {name: array.shape for name, array in arrays.items()}, column, "array")
    beside = {other: array for other, array in arrays.items() if other != name and array.shape == (len(arrays[name]),)}
    return Table(arrays[name], *_beside(beside))


def _safetensors(path: Path, column: str | None) -> Table:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
            return Table(file.get_tensor(choose(path, shapes, column, "tensor")))
    except SafetensorError as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from None


def _parquet(path: Path, column: str | None) -> Table:
    import duckdb

    with duckdb.connect() as connection:
        try:
            relation = connection.read_parquet(str(path))
        except duckdb.Error as error:
            raise InputError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})") from None
        kinds = dict(zip(relation.columns, map(str, relation.types), strict=True))
        lists = [name for name, kind in kinds.items() if kind.endswith("]")]
        named = _first(kinds, ID_NAMES), _first(kinds, TITLE_NAMES), _first(kinds, POPULARITY_NAMES)
        if column is not None and column not in kinds:
            raise InputError(f"{path}: no column '{column}'; {closest(column, kinds)}")
        if column is not None or lists:
            chosen = choose(path, dict.fromkeys(lists, (0, 0)), column, "column")
            vectors = _list_column(path, relation, chosen, kinds[chosen])
        else:
            numeric = [name for name, kind in kinds.items() if name not in named and kind.split("(")[0] in _NUMERIC]
            if not numeric:
                raise InputError(f"{path}: holds neither a list column nor numeric columns; it holds {_shown(kinds)}")
            columns = relation.select(*map(_quoted, numeric)).fetchnumpy()
            vectors = np.stack([np.ma.filled(columns[name].astype(np.float64), np.nan) for name in numeric], axis=1)
        beside = relation.select(*(_quoted(name) for name in named if name)).fetchnumpy() if any(named) else {}
    return Table(vectors, *_beside({name: np.ma.filled(values) for name, values in beside.items()}))


_NUMERIC = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "HUGEINT"} | {
    "FLOAT",
    "DOUBLE",
    "DECIMAL",
}


def _list_column(path: Path, relation: Any, name: str, kind: str) -> NDArray[Any]:
    if not kind.endswith("]"):
        raise InputError(f"{path}: column '{name}' holds {kind}, not a list of numbers in each row")
    quoted = _quoted(name)
    count, known, shortest, longest = relation.aggregate(
        f"count(*), count({quoted}), min(len({quoted})), max(len({quoted}))"
    ).fetchall()[0]
    if count != known:
        raise InputError(f"{path}: column '{name}' is empty in {count - known} of {count} rows; fill or drop them")
    if shortest != longest:
        raise InputError(f"{path}: column '{name}' holds lists of {shortest} to {longest} numbers; all must be equal")
    flat = relation.select(f"unnest({quoted}) AS value").fetchnumpy()["value"]
    if flat.dtype.kind not in "fiu":
        raise InputError(f"{path}: column '{name}' holds {kind}, not lists of numbers")
    values = np.ma.filled(flat.astype(np.float64), np.nan) if np.ma.isMaskedArray(flat) else flat
    return values.reshape(count, -1) if count else values.reshape(0, 0)


def _csv(path: Path, column: str | None) -> Table:
    from twotower.diagnosis.load_csv import read_csv

    return read_csv(path, column)


def _faiss(path: Path, column: str | None) -> Table:
    import faiss

    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        raise InputError(f"{path}: not a readable FAISS index ({str(error).splitlines()[-1][:120]})") from None
    ids = None
    inner = index  # the map owns the index within, so it must outlive the reading
    if isinstance(index, faiss.IndexIDMap):
        ids = [str(number) for number in faiss.vector_to_array(index.id_map)]
        inner = faiss.downcast_index(index.index)
    try:
        if isinstance(inner, faiss.IndexIVF):
            inner.make_direct_map()
        return Table(inner.reconstruct_n(0, inner.ntotal), ids)
    except RuntimeError:
        raise InputError(
            f"{path}: a {type(inner).__name__} does not give its vectors back; use the file of vectors"
        ) from None


def _bundle(folder: Path, column: str | None) -> Table:
    states, ids = folder / "items" / "states.safetensors", folder / "items" / "ids.npy"
    if not states.is_file():
        raise InputError(f"{folder}: not a bundle with item states (no items/states.safetensors)")
    table = _states(folder, states) if column is None else _safetensors(states, column)
    if not ids.is_file():
        return table
    rows = _npy(ids, None).vectors
    if len(rows) != len(table.vectors):
        raise InputError(f"{folder}: {len(table.vectors)} item states but {len(rows)} ids; export the bundle again")
    return table._replace(ids=_names(folder, rows), popularity=_popularity(folder, rows))


def _states(folder: Path, states: Path) -> Table:
    """The states as vectors: several vectors an item are laid end to end, parts that are no numbers left out.

    What `twotower.serving.compact` stored as whole numbers of each item's ``step`` is multiplied out.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(states)
    except SafetensorError as error:
        raise InputError(f"{states}: not a readable safetensors file ({error})") from None
    step = tensors.pop("step", None)
    if step is not None:
        tensors = {name: part.flatten(1) * step.float()[:, None] for name, part in tensors.items() if part.ndim > 1}
    parts = [part.flatten(1) for part in tensors.values() if part.is_floating_point() and part.ndim > 1]
    if sum(part.shape[1] for part in parts) < 2:
        raise InputError(f"{folder}: its model has no item vectors, so there is no geometry to judge")
    return Table(parts[0] if len(parts) == 1 else torch.cat(parts, dim=1))


def _names(folder: Path, rows: Any) -> list[str]:
    """The outside id of each row, or its number where the bundle has no vocabulary."""
    vocabulary = folder / "vocabulary" / "items.parquet"
    if not vocabulary.is_file():
        return [str(row) for row in rows.tolist()]
    import duckdb

    with duckdb.connect() as connection:
        names = dict(connection.read_parquet(str(vocabulary)).select("row, id").fetchall())
    return [str(names.get(row, row)) for row in rows.tolist()]


def _popularity(folder: Path, rows: Any) -> NDArray[Any] | None:
    """How often each item is a positive in the events that the bundle keeps, if it keeps any."""
    events = folder / "histories" / "items.npy"
    if not events.is_file():
        return None
    items, labels = np.load(events, allow_pickle=False), folder / "histories" / "labels.npy"
    if labels.is_file():
        items = items[np.load(labels, allow_pickle=False) >= 0.5]
    counts = np.bincount(items, minlength=int(rows.max()) + 1)
    return counts[rows].astype("f8")


def _beside(columns: dict[str, NDArray[Any]]) -> tuple[Any, Any, Any]:
    """Ids, titles and popularity among the columns that are not vectors."""
    ids, titles, popularity = (_first(columns, names) for names in (ID_NAMES, TITLE_NAMES, POPULARITY_NAMES))
    return (
        None if ids is None else [str(value) for value in columns[ids].tolist()],
        None if titles is None else [str(value) for value in columns[titles].tolist()],
        None if popularity is None or columns[popularity].dtype.kind not in "fiu" else columns[popularity].astype("f8"),
    )


def _first(names: Any, wanted: tuple[str, ...]) -> str | None:
    lowered = {name.lower(): name for name in names}
    return next((lowered[name] for name in wanted if name in lowered), None)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _shown(kinds: dict[str, str]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in list(kinds.items())[:8])


READERS: dict[str, Callable[[Path, str | None], Table]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".safetensors": _safetensors,
    ".parquet": _parquet,
    ".csv": _csv,
    ".tsv": _csv,
    ".faiss": _faiss,
    ".index": _faiss,
}
