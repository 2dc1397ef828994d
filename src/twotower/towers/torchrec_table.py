"""A table that hands its rows to TorchRec to be trained, and TorchRec's optimiser of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import PADDING
from twotower.towers.row_table import RowGradient, restore_squares
from twotower.towers.sharded_table import ShardedTable
from twotower.towers.torchrec_rows import Collection, check_torchrec

MULTIPLE = 4
"""The width of a row must be one of this: FBGEMM reads rows by 16 bytes."""


class TorchRecTable(ShardedTable):
    """Keep rows as a sharded table does until they are trained, and from then on in a collection of TorchRec.

    `FusedRows` hands them over; the shard is then TorchRec's own memory, so that states, checkpoints and bundles hold
    plain rows, and whoever reads them needs no TorchRec. TorchRec shares rows out by blocks: id i is its row
    (i mod ranks) · rows of a block + i // ranks, which lies on rank i mod ranks, where a sharded table has it.

    Args:
        num_rows: rows of the vocabulary, padding and unknown included.
        dim: width of a vector.
        seed: of the rows.
        std: standard deviation of the rows, which are uniform; None: 1 / sqrt(dim).
        device: where the shard is.

    Raises:
        InputError: as of a sharded table, or if the width is no multiple of 4.

    Examples:
        >>> TorchRecTable(10, 4, seed=0)(torch.tensor([[2, 0]])).shape
        torch.Size([1, 2, 4])
    """

    def __init__(
        self, num_rows: int, dim: int, *, seed: int, std: float | None = None, device: torch.device | str = "cpu"
    ) -> None:
        if dim % MULTIPLE:
            raise InputError(f"rows of TorchRec are a multiple of {MULTIPLE} numbers wide, not {dim}: take another dim")
        super().__init__(num_rows, dim, seed=seed, std=std, device=device)
        self.block = -(-num_rows // self.place.size)
        self.kept: Collection | None = None

    def hand_over(self, *, eps: float) -> Collection:
        """Give the rows to TorchRec, where they are looked up and moved from now on. Every rank calls it."""
        if self.shard.dtype != torch.float32:
            raise InputError(f"TorchRec keeps rows in float32, and this model is in {self.shard.dtype}")
        kept = Collection(self.block * self.place.size, self.dim, self.place, self.shard.device, eps=eps)
        own = kept.rows[: len(self.shard)]
        own.copy_(self.shard)
        self.shard, self.kept = own, kept
        return kept

    def forward(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape dim"]:
        """Return the vector of each id; alone and without gradients, by plain reading."""
        return F.embedding(ids, self.shard) if self._plain() else super().forward(ids)

    def mean(self, ids: Int[Tensor, "rows length"]) -> Float[Tensor, "rows dim"]:
        """Return the mean of each row's ids without padding; zero where all is padding."""
        if self._plain() and ids.shape[1]:
            return F.embedding_bag(ids, self.shard, mode="mean", padding_idx=PADDING)
        return super().mean(ids)

    def fetch(self, ids: Int[Tensor, " distinct"]) -> tuple[Float[Tensor, "distinct dim"], Any]:
        """Return the rows of distinct ids, and where TorchRec has them."""
        if self.kept is None:
            return super().fetch(ids)
        places = ids % self.place.size * self.block + ids // self.place.size
        return self.kept.look_up(places), places

    def give_back(self, gradient: Float[Tensor, "distinct dim"], lookup: Any) -> RowGradient:
        """Return the gradient as one of TorchRec's rows: it stays here until `FusedRows` takes its step."""
        if self.kept is None:
            return super().give_back(gradient, lookup)
        return RowGradient(lookup, gradient, [len(lookup)])

    def _plain(self) -> bool:
        return self.place.size == 1 and not torch.is_grad_enabled()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TorchRecTable:
        """Take rows that are moved or cast out of TorchRec's hands: they are then as of a sharded table."""
        before = self.shard
        super()._apply(fn, recurse)
        if self.shard is not before:
            self.kept = None
        return self


class FusedRows:
    """Move a table's rows by TorchRec's fused row-wise Adagrad: as `twotower.training.row_adagrad.RowAdagrad` does.

    A step looks the touched rows up once more and passes their gradients, summed over all lookups, back through
    TorchRec, whose owners sum them over ranks and move each row once.

    Args:
        table: whose rows TorchRec gets here.
        rate: learning rate of a step that names none.
        eps: added to the root.
        state: type of the state; TorchRec knows "float32" alone.

    Raises:
        InputError: if the state is of another type, TorchRec is not installed, or the rows are not in float32.
    """

    def __init__(self, table: TorchRecTable, *, rate: float, eps: float = 1e-8, state: str = "float32") -> None:
        if state != "float32":
            raise InputError(f"training.row_state = '{state}': TorchRec keeps the state of rows in float32")
        check_torchrec()
        self.table, self.rate = table, rate
        self.kept = table.hand_over(eps=eps)
        self.squares = self.kept.squares[: len(table.shard)]

    def step(self, *, rows: int = 1, rate: float | None = None) -> None:
        """Take the gradients that backward passes left with the table, and move its rows. Every rank calls it.

        Args:
            rows: what gradients are divided by.
            rate: learning rate of this step; None: that of the optimiser.
        """
        touched, gradient = self.table.take_gradient()
        self.kept.move(touched, gradient / rows, self.rate if rate is None else rate)

    def state(self) -> dict[str, Tensor]:
        """Return what a resumed run needs, one row a row of the shard."""
        return {"squares": self.squares}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` gave.

        Raises:
            InputError: if it is that of another optimiser or of another shard.
        """
        restore_squares(self.squares, state)
