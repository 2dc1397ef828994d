"""A table whose rows are shared out over ranks: ids go to the owners of their rows, rows come back, so do gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from twotower.core.errors import InputError
from twotower.core.records import PADDING
from twotower.ops.exchange import Exchange, Place
from twotower.ops.uniform_by_id import uniform_by_id

_TILE = 1 << 24
"""Numbers that are drawn at a time."""


class RowGradient(NamedTuple):
    """Hold what one backward pass left for this rank's rows: ``slots`` int64 [rows], ``rows`` [rows, dim].

    ``received`` are the numbers of rows by asking rank; a rank names a slot once.
    """

    slots: Tensor
    rows: Tensor
    received: list[int]


class ShardedTable(nn.Module):
    """Keep row i on rank i mod ranks, as row i // ranks of its shard; a lookup moves each distinct row once.

    The shard is no weight of the model: its gradient is kept as sparse rows by the owner, in the order of lookups and
    ranks, until an optimiser such as `twotower.training.row_adagrad.RowAdagrad` takes it. Rows are drawn by their id,
    so that the table is the same on any number of ranks and on any device.

    All ranks look up, and pass back, the same number of times in the same order, with any number of ids (also none).

    Args:
        num_rows: rows of the vocabulary, padding and unknown included.
        dim: width of a vector.
        seed: of the rows.
        std: standard deviation of the rows, which are uniform; None: 1 / sqrt(dim).
        device: where the shard is.

    Attributes:
        shard: this rank's rows, [rows of the shard, dim]; changed in place by the optimiser.

    Raises:
        InputError: if a size is below 1, or ``std`` is negative.

    Examples:
        >>> table = ShardedTable(10, 4, seed=0)
        >>> table(torch.tensor([[2, 0]])).shape, table.mean(torch.tensor([[2, 0]])).shape
        (torch.Size([1, 2, 4]), torch.Size([1, 4]))
    """

    shard: Tensor

    def __init__(
        self,
        num_rows: int,
        dim: int,
        *,
        seed: int,
        std: float | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        if num_rows < 1 or dim < 1:
            raise InputError(f"a table needs at least one row and one column, got {num_rows} and {dim}")
        std = dim**-0.5 if std is None else std
        if not 0.0 <= std < float("inf"):
            raise InputError(f"a table's standard deviation must be 0 or more, got {std}")
        self.num_rows, self.dim = num_rows, dim
        self.place = Place.current()
        # Not persistent: what is saved with the model, or sent by rank 0 to all, is the same on every rank.
        self.register_buffer("shard", _drawn(self.own_ids(device), dim, seed, std), persistent=False)
        self.gradients: list[RowGradient] = []

    def own_ids(self, device: torch.device | str | None = None) -> Int[Tensor, " rows"]:
        """Return the ids of this rank's rows, in the order of the shard."""
        rank, size = self.place
        return torch.arange(rank, self.num_rows, size, device=self.shard.device if device is None else device)

    def forward(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape dim"]:
        """Return the vector of each id."""
        vectors, place = self.distinct(ids)
        return F.embedding(place, vectors, padding_idx=PADDING)

    def mean(self, ids: Int[Tensor, "rows length"]) -> Float[Tensor, "rows dim"]:
        """Return the mean of each row's ids without padding; zero where all is padding."""
        vectors, place = self.distinct(ids)
        if not ids.shape[1]:
            return (vectors[:1] * 0.0).expand(len(ids), self.dim)
        return F.embedding_bag(place, vectors, mode="mean", padding_idx=PADDING)

    def distinct(self, ids: Int[Tensor, "*shape"]) -> tuple[Float[Tensor, "distinct dim"], Int[Tensor, "*shape"]]:
        """Return the vectors of the distinct ids with padding's first, and the row among them of each id.

        Several lookups of one step cost least as one: join their ids, and take rows by place.

        Raises:
            InputError: if an id is no row of the table (on the CPU; CUDA asserts on the device).
        """
        flat = ids.flatten()
        if flat.device.type == "cpu" and len(flat) and (int(flat.min()) < 0 or int(flat.max()) >= self.num_rows):
            raise InputError(
                f"a table of {self.num_rows} rows was asked for ids {int(flat.min())} to {int(flat.max())}"
            )
        known, place = torch.cat([flat.new_full((1,), PADDING), flat]).unique(return_inverse=True)
        # The shard is no leaf of the graph; this is what makes its rows one.
        leaf = torch.zeros((), dtype=self.shard.dtype, device=self.shard.device, requires_grad=True)
        return _Rows.apply(leaf, self, known), place[1:].view(ids.shape)

    @torch.no_grad()
    def take_gradient(self) -> tuple[Int[Tensor, " touched"], Float[Tensor, "touched dim"]]:
        """Return the shard's touched rows, ascending, with the sum of their gradients, and forget them.

        Sums run by lookup and then by rank, in float32 or wider: the same on every run.
        """
        parts, self.gradients = self.gradients, []
        dtype = torch.promote_types(self.shard.dtype, torch.float32)
        if not parts:
            return (
                torch.empty(0, dtype=torch.int64, device=self.shard.device),
                self.shard.new_empty(0, self.dim, dtype=dtype),
            )
        touched, place = torch.cat([part.slots for part in parts]).unique(return_inverse=True)
        total = self.shard.new_zeros(len(touched), self.dim, dtype=dtype)
        start = 0
        for part in parts:
            for rows in part.rows.to(dtype).split(part.received):
                # A rank names a slot once, so that no two rows of a call meet: no order is left to the device.
                total.index_add_(0, place[start : start + len(rows)], rows)
                start += len(rows)
        return touched, total

    def extra_repr(self) -> str:
        """Hold the sizes, and which share this is."""
        return f"{self.num_rows}, {self.dim}, rank {self.place.rank} of {self.place.size}"


class _Rows(torch.autograd.Function):
    """Rows of distinct ids from their owners; the gradient of each goes back to its owner."""

    @staticmethod
    def forward(context: Any, leaf: Tensor, table: ShardedTable, ids: Tensor) -> Tensor:
        exchange = Exchange(ids % table.place.size, table.place.size)
        slots = exchange.to_owners(ids // table.place.size)
        context.table, context.exchange, context.slots = table, exchange, slots
        return exchange.to_askers(table.shard.index_select(0, slots))

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[None, None, None]:
        rows = context.exchange.to_owners(gradient.contiguous())
        context.table.gradients.append(RowGradient(context.slots, rows, context.exchange.received))
        return None, None, None


def _drawn(ids: Tensor, dim: int, seed: int, std: float) -> Tensor:
    """Uniform rows of this standard deviation; zero for padding."""
    rows = torch.empty(len(ids), dim, device=ids.device)
    for part in torch.arange(len(ids), device=ids.device).split(max(1, _TILE // dim)):
        rows[part[0] : part[-1] + 1] = uniform_by_id(ids[part], dim, seed=seed)
    rows *= std * 3.0**0.5
    return rows.masked_fill_((ids == PADDING)[:, None], 0.0)
