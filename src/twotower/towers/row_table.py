"""A table whose rows are no weights of the model: a lookup moves each distinct row once, and gradients stay sparse."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from twotower.core.errors import InputError
from twotower.core.records import PADDING


class RowGradient(NamedTuple):
    """Hold what one backward pass left for the rows of this process: ``slots`` int64 [rows], ``rows`` [rows, dim].

    ``received`` are the numbers of rows by asking rank; a rank names a slot once.
    """

    slots: Tensor
    rows: Tensor
    received: list[int]


def restore_squares(squares: Tensor, state: dict[str, Tensor]) -> None:
    """Take the state of row-wise Adagrad, one number a row, from what a stopped run saved; in place.

    Raises:
        InputError: if it is that of another optimiser or of another shard.
    """
    found = state.get("squares")
    if found is None or found.shape != squares.shape:
        raise InputError(
            f"row-wise Adagrad: the saved state holds {sorted(state)}, for these {len(squares)} rows it needs 'squares'"
        )
    squares.copy_(found)


class RowTable(nn.Module, ABC):
    """Look distinct ids up, and keep their gradients as sparse rows in the order of lookups.

    An optimiser such as `twotower.training.row_adagrad.RowAdagrad` takes the gradients; no other optimiser sees the
    rows, since they are a buffer. A subclass says where rows are, and how they come.

    Attributes:
        shard: the rows that this process keeps, [rows of the shard, dim]; changed in place by the optimiser.
        gradients: of each lookup since the last step that a backward pass went through.
    """

    row_an_id = True
    num_rows: int
    dim: int
    shard: Tensor

    def __init__(self, num_rows: int, dim: int) -> None:
        super().__init__()
        if num_rows < 1 or dim < 1:
            raise InputError(f"a table needs at least one row and one column, got {num_rows} and {dim}")
        self.num_rows, self.dim = num_rows, dim
        self.gradients: list[RowGradient] = []

    @abstractmethod
    def fetch(self, ids: Int[Tensor, " distinct"]) -> tuple[Float[Tensor, "distinct dim"], Any]:
        """Return the rows of distinct ids on the device of the ids, and what `give_back` needs of the lookup."""

    @abstractmethod
    def give_back(self, gradient: Float[Tensor, "distinct dim"], lookup: Any) -> RowGradient:
        """Return the gradient of the fetched rows as that of rows of the shard, on its device."""

    @abstractmethod
    def put(self, ids: Int[Tensor, " ids"], rows: Float[Tensor, "ids dim"]) -> None:
        """Set the rows of distinct ids."""

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

    def whole(self) -> Float[Tensor, "ids dim"]:
        """Return the vectors of all ids, in their order."""
        found: Tensor = self(torch.arange(self.num_rows, device=self.shard.device))
        return found

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
        leaf = torch.zeros((), dtype=self.shard.dtype, device=flat.device, requires_grad=True)
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


class _Rows(torch.autograd.Function):
    """Rows of distinct ids from where they are kept; the gradient of each goes back there."""

    @staticmethod
    def forward(context: Any, leaf: Tensor, table: RowTable, ids: Tensor) -> Tensor:
        rows, lookup = table.fetch(ids)
        context.table, context.lookup = table, lookup
        return rows

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[None, None, None]:
        context.table.gradients.append(context.table.give_back(gradient.contiguous(), context.lookup))
        return None, None, None
