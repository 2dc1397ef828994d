"""A table in the memory of the host: each step moves the batch's distinct rows to the device, and gradients back."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from twotower.towers.sparse_table import SparseTable


class HostTable(SparseTable):
    """Keep all rows in the host's memory, wherever the model is; a lookup moves each distinct row once.

    What a device holds is the rows of a batch, so that its memory does not grow with the catalogue. All else is as in
    `SparseTable`. Rows are page-locked once the model is on a GPU.
    """

    def fetch(self, ids: Int[Tensor, " distinct"]) -> tuple[Float[Tensor, "distinct dim"], Tensor]:
        """Return the rows of distinct ids, moved to the device of the ids."""
        if ids.device == self.shard.device:
            return super().fetch(ids)
        slots = ids.to(self.shard.device)
        rows = torch.empty(len(slots), self.dim, dtype=self.shard.dtype, pin_memory=ids.is_cuda)
        torch.index_select(self.shard, 0, slots, out=rows)
        return rows.to(ids.device, non_blocking=True), slots

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> HostTable:
        """Follow the model's type of numbers, and not its device: what torch calls for ``to``, ``cuda``, ``double``."""
        asked = fn(self.shard.new_empty(0))
        self.shard = self.shard.to(asked.dtype)
        if asked.is_cuda and not self.shard.is_pinned():
            self.shard = self.shard.pin_memory()
        return self
