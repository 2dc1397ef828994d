"""Tables of a run whose rows are shared out over ranks: how they are built, and saved whole, in the order of ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from twotower.ops.exchange import Place, lost_rank
from twotower.towers.host_table import HostTable
from twotower.towers.sharded_table import ShardedTable, drawn_rows
from twotower.towers.sparse_table import SparseTable

BLOCK = 1 << 24
"""Bytes that a rank sends to rank 0 at a time."""


def share_or_all(num_rows: int, dim: int, *, std: float | None = None) -> ShardedTable | SparseTable:
    """Build a rank's share of a table; alone, the same rows as a sparse table.

    Args:
        num_rows: ids, padding and unknown included.
        dim: width of a vector.
        std: of the uniform entries, which the global generator seeds; None: 1 / sqrt(dim).

    Raises:
        InputError: if there are more ranks than rows.
    """
    seed = drawn_seed()
    if Place.current().size > 1:
        return ShardedTable(num_rows, dim, seed=seed, std=std)
    with torch.device("meta"):  # so that none are drawn but those by their ids
        table = SparseTable(num_rows, dim)
    table.shard = drawn_rows(torch.arange(num_rows), dim, seed=seed, std=dim**-0.5 if std is None else std)
    return table


def drawn_seed() -> int:
    """Draw the seed of a table's rows from the global generator."""
    return int(torch.randint(1 << 62, (), device="cpu"))


def shared_out(model: nn.Module) -> dict[str, ShardedTable]:
    """Return the tables of a model whose rows lie on several ranks, by their place in the model."""
    return {
        name: part
        for name, part in model.named_modules(remove_duplicate=False)
        if isinstance(part, ShardedTable) and part.place.size > 1
    }


def whole_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state of the model with all rows of its tables, on rank 0; empty elsewhere. All ranks call it."""
    tables = {f"{name}.shard": table for name, table in shared_out(model).items()}
    return {key: all_rows(tables[key], part) if key in tables else part for key, part in weights.items()}


def own_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what `whole_weights` gave on rank 0, with this rank's rows alone."""
    tables = {f"{name}.shard": table for name, table in shared_out(model).items()}
    return {key: own_rows(tables[key], part) if key in tables else part for key, part in weights.items()}


def whole_states(model: nn.Module, state: dict[str, Any]) -> dict[str, Any]:
    """Return a state of `twotower.training.with_rows.WithRows` with that of all rows, on rank 0. All ranks call it."""
    return _states(model, state, all_rows)


def own_states(model: nn.Module, state: dict[str, Any]) -> dict[str, Any]:
    """Return what `whole_states` gave on rank 0, with the state of this rank's rows alone."""
    return _states(model, state, own_rows)


def unite(model: nn.Module) -> None:
    """Give the model on rank 0 all rows, in the host's memory; the others send theirs and keep them. All call it.

    The device need not hold the table: it takes the rows of a batch, as of a `HostTable`.
    """
    made: dict[ShardedTable, HostTable] = {}
    for name, table in shared_out(model).items():
        if table not in made:
            rows = all_rows(table, table.shard)
            if table.place.rank:
                continue
            with torch.device("meta"):  # so that no rows are drawn, nor a second table held
                made[table] = HostTable(table.num_rows, table.dim)
            made[table].shard = rows.pin_memory() if table.shard.is_cuda else rows
            made[table].train(table.training)
        above, _, last = name.rpartition(".")
        setattr(model.get_submodule(above), last, made[table])


def all_rows(table: ShardedTable, part: Tensor) -> Tensor:
    """Return the rows of all ranks in the order of ids, in the host's memory of rank 0; elsewhere no row.

    They come by blocks, so that rank 0 holds little beside the whole. All ranks call.

    Args:
        table: says which rows are whose.
        part: one row for each row of this rank's shard.
    """
    rank, size = table.place
    if size == 1:
        return part
    whole = torch.empty(0 if rank else table.num_rows, *part.shape[1:], dtype=part.dtype)
    longest = -(-table.num_rows // size)
    step = max(1, BLOCK // max(1, part[:1].numel() * part.element_size()))
    for start in range(0, longest, step):
        length = min(step, longest - start)
        block = torch.zeros(length, *part.shape[1:], dtype=part.dtype)
        mine = part[start : start + length]
        block[: len(mine)] = mine
        sent = block.view(length, -1).view(torch.uint8)  # gloo does not know every type of numbers
        held = None if rank else [torch.empty_like(sent) for _ in range(size)]
        with lost_rank():
            dist.gather(sent, held, dst=0)
        if held is not None:  # row k of rank r is that of id k · size + r
            ids = torch.stack(held, dim=1).view(part.dtype).view(length * size, *part.shape[1:])
            first = start * size
            whole[first : first + len(ids)] = ids[: table.num_rows - first]
    return whole


def own_rows(table: ShardedTable, whole: Tensor) -> Tensor:
    """Return this rank's rows of all, which are in the order of ids."""
    return whole[table.place.rank :: table.place.size]


def _states(model: nn.Module, state: dict[str, Any], change: Any) -> dict[str, Any]:
    tables = shared_out(model)
    if not tables or "rows" not in state:
        return state
    rows = {
        name: {key: change(tables[name], part) for key, part in parts.items()} if name in tables else parts
        for name, parts in state["rows"].items()
    }
    return state | {"rows": rows}
