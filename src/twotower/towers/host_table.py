"""A table in the memory of the host: each step moves the batch's distinct rows to the device, and gradients back."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from twotower.core.records import PADDING
from twotower.towers.row_table import RowGradient, RowTable


class HostTable(RowTable):
    """Keep all rows in the host's memory, wherever the model is; a lookup moves each distinct row once.

    What a device holds is the rows of a batch, so that its memory does not grow with the catalogue; nor do gradients
    or the work of a step, also where the model itself is on the CPU. Rows are a buffer, saved with the model; they are
    trained by `twotower.training.row_adagrad.RowAdagrad`, and page-locked once the model is on a GPU.

    Args:
        num_rows: rows of the vocabulary, padding and unknown included.
        dim: width of a vector.
        std: of the normal entries; None: 1 / sqrt(dim).

    Raises:
        InputError: if a size is below 1.

    Examples:
        >>> table = HostTable(10, 4)
        >>> table(torch.tensor([[2, 0]])).shape, list(table.parameters())
        (torch.Size([1, 2, 4]), [])
    """

    def __init__(self, num_rows: int, dim: int, *, std: float | None = None) -> None:
        super().__init__(num_rows, dim)
        rows = torch.empty(num_rows, dim).normal_(std=dim**-0.5 if std is None else std)
        rows[PADDING] = 0.0
        self.register_buffer("shard", rows)

    def forward(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape dim"]:
        """Return the vector of each id; without gradients and on the host, by plain reading."""
        if self._plain(ids):
            return F.embedding(ids, self.shard)
        return super().forward(ids)

    def mean(self, ids: Int[Tensor, "rows length"]) -> Float[Tensor, "rows dim"]:
        """Return the mean of each row's ids without padding; zero where all is padding."""
        if self._plain(ids) and ids.shape[1]:
            return F.embedding_bag(ids, self.shard, mode="mean", padding_idx=PADDING)
        return super().mean(ids)

    def fetch(self, ids: Int[Tensor, " distinct"]) -> tuple[Float[Tensor, "distinct dim"], Tensor]:
        """Return the rows of distinct ids, moved to the device of the ids."""
        slots = ids.to(self.shard.device)
        if ids.device == self.shard.device:
            return self.shard.index_select(0, slots), slots
        rows = torch.empty(len(slots), self.dim, dtype=self.shard.dtype, pin_memory=ids.is_cuda)
        torch.index_select(self.shard, 0, slots, out=rows)
        return rows.to(ids.device, non_blocking=True), slots

    def give_back(self, gradient: Float[Tensor, "distinct dim"], lookup: Tensor) -> RowGradient:
        """Move the gradient to the host."""
        return RowGradient(lookup, gradient.to(self.shard.device), [len(lookup)])

    @torch.no_grad()
    def put(self, ids: Int[Tensor, " ids"], rows: Float[Tensor, "ids dim"]) -> None:
        """Set the rows of distinct ids."""
        self.shard[ids.to(self.shard.device)] = rows.to(self.shard)

    def extra_repr(self) -> str:
        """Hold the sizes, and where the rows are."""
        return f"{self.num_rows}, {self.dim}, in the host's memory"

    def _plain(self, ids: Tensor) -> bool:
        return not torch.is_grad_enabled() and ids.device == self.shard.device

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> HostTable:
        """Follow the model's type of numbers, and not its device: what torch calls for ``to``, ``cuda``, ``double``."""
        asked = fn(self.shard.new_empty(0))
        self.shard = self.shard.to(asked.dtype)
        if asked.is_cuda and not self.shard.is_pinned():
            self.shard = self.shard.pin_memory()
        return self
