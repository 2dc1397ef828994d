"""A sharded table on disk: a safetensors file a rank, and a manifest written last; read back on any number of ranks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.files import read_json, replacing_file, sha256, write_json
from twotower.core.folders import check_replaceable
from twotower.ops.exchange import side_by_side
from twotower.towers.sharded_table import ShardedTable

KIND, FORMAT, ROWS = "sharded-table", 1, "rows"
MANIFEST = "manifest.json"
NONE = "0" * 64


def save_table(table: ShardedTable, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
    """Write the table; all ranks call it, and each writes its own shard.

    The manifest names the shards with their hashes and replaces the one before in one step; only then are older shards
    removed. Stopped at any moment, the folder holds the table of before or the new one, whole.

    Args:
        table: whose rows are written.
        folder: the same on every rank, and one that all can write.
        state: further tensors with one row a row of the shard, such as those of its optimiser.

    Raises:
        InputError: on every rank, if one of them cannot write its shard, or if ``state`` has other rows.
    """
    tensors = {**(state or {}), ROWS: table.shard}
    if state and (ROWS in state or any(len(part) != len(table.shard) for part in state.values())):
        raise InputError(
            "save_table: each tensor of the state needs a row a row of the shard, and none is named 'rows'"
        )
    rank, size = table.place
    device, digest = table.shard.device, NONE
    with _all_or_none(folder, device):
        if rank == 0:
            _check_target(folder)
    with _all_or_none(folder, device):
        digest = _write_shard(folder, rank, size, tensors)
    told = side_by_side(torch.tensor(list(bytes.fromhex(digest)), dtype=torch.uint8, device=device))
    digests = [bytes(part.tolist()).hex() for part in told]
    with _all_or_none(folder, device):  # nobody goes on before the manifest stands
        if rank == 0:
            names = [_shard_name(place, size, found) for place, found in enumerate(digests)]
            shards = [{"file": name, "sha256": found} for name, found in zip(names, digests, strict=True)]
            about = {"kind": KIND, "format": FORMAT, "rows": table.num_rows, "dim": table.dim}
            write_json(folder / MANIFEST, about | {"state": sorted(state or {}), "shards": shards})
            for old in folder.glob("shard-*.safetensors"):
                if old.name not in names:
                    old.unlink()


def load_table(
    folder: Path, *, device: torch.device | str = "cpu", verify: bool = True
) -> tuple[ShardedTable, dict[str, Tensor]]:
    """Read what `save_table` wrote: this rank's rows, on as many ranks as there are now, and the state beside them.

    Args:
        folder: with the manifest.
        device: where the shard is put.
        verify: whether the hash of every file that is read is compared with the manifest.

    Raises:
        InputError: if the folder holds no table, or one that is damaged or of a newer version, or with fewer rows than
            there are ranks.
    """
    manifest = _manifest(folder)
    table = ShardedTable(manifest["rows"], manifest["dim"], seed=0, std=0.0, device=device)
    rank, size = table.place
    files = manifest["shards"]
    parts: dict[str, Tensor] = {}
    for place, file in enumerate(files):
        ids = torch.arange(place, table.num_rows, len(files))
        own = (ids % size == rank).nonzero()[:, 0]
        if not len(own):
            continue
        tensors = _read_shard(folder / file["file"], file["sha256"] if verify else None)
        for name in (ROWS, *manifest["state"]):
            if name not in tensors or len(tensors[name]) != len(ids):
                raise InputError(f"{folder / file['file']}: '{name}' is missing or has other rows than the manifest")
            found = tensors[name]
            if name not in parts:
                parts[name] = found.new_empty(len(table.shard), *found.shape[1:])
            parts[name][ids[own] // size] = found[own]
    if parts and parts[ROWS].shape != table.shard.shape:
        raise InputError(f"{folder}: rows are {parts[ROWS].shape[1]} wide, the manifest says {table.dim}")
    rows = parts.pop(ROWS, table.shard)
    table.shard = rows.to(device)
    return table, {name: part.to(device) for name, part in parts.items()}


@contextlib.contextmanager
def _all_or_none(folder: Path, device: torch.device) -> Iterator[None]:
    """What fails inside on one rank is an error on all of them. Ranks must not meet inside."""
    failure = ""
    try:
        yield
    except (OSError, SafetensorError, InputError) as error:
        failure = str(error) or type(error).__name__
    failed = side_by_side(torch.tensor([bool(failure)], dtype=torch.uint8, device=device)).flatten().nonzero()[:, 0]
    if len(failed):
        raise InputError(failure or f"{folder}: rank {int(failed[0])} could not write its part of the table")


def _check_target(folder: Path) -> None:
    """Refuse a folder that holds something else."""
    check_replaceable(folder)
    if (folder / MANIFEST).exists():
        _manifest(folder)


def _write_shard(folder: Path, rank: int, size: int, tensors: dict[str, Tensor]) -> str:
    """Write one rank's file, named by its hash; returns the hash."""
    target = folder / f".rank-{rank:05d}.safetensors"
    with replacing_file(target) as partial:
        save_file({name: part.detach().cpu().contiguous() for name, part in tensors.items()}, partial)
    digest = sha256(target)
    target.replace(folder / _shard_name(rank, size, digest))
    return digest


def _shard_name(rank: int, size: int, digest: str) -> str:
    return f"shard-{rank:05d}-of-{size:05d}-{digest[:12]}.safetensors"


def _read_shard(path: Path, digest: str | None) -> dict[str, Tensor]:
    try:
        if digest is not None and sha256(path) != digest:
            raise InputError(f"{path}: was changed since the table was saved; save it again, or take another copy")
        return load_file(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, so the table is not whole") from None
    except SafetensorError as error:
        raise InputError(f"{path}: not a safetensors file ({error})") from None


def _manifest(folder: Path) -> dict[str, Any]:
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND:
        raise InputError(f"{folder}: its manifest is not that of a sharded table")
    if manifest.get("format") != FORMAT:
        raise InputError(f"{folder}: format {manifest.get('format')}, this version reads {FORMAT}; upgrade twotower")
    try:
        for file in manifest["shards"]:
            if Path(file["file"]).name != file["file"] or not isinstance(file["sha256"], str):
                raise InputError(f"{folder}: its manifest names a shard outside the folder: {file['file']!r}")
        if not manifest["shards"] or min(int(manifest["rows"]), int(manifest["dim"]), len(manifest["state"]) + 1) < 1:
            raise InputError(f"{folder}: its manifest names no shard or no row")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder}: its manifest is damaged ({error})") from None
    return manifest
