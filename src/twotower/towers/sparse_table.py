"""A table with sparse gradients on the device of the model: a step reads and moves the batch's distinct rows alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from twotower.core.records import PADDING
from twotower.towers.row_table import RowGradient, RowTable


class SparseTable(RowTable):
    """Keep all rows where the model is, without a dense gradient or moments for each number.

    A step works on the rows of its batch, however many the table has. Rows are a buffer, saved with the model; they are
    trained by `twotower.training.row_adagrad.RowAdagrad`, which keeps one number a row.

    Args:
        num_rows: rows of the vocabulary, padding and unknown included.
        dim: width of a vector.
        std: of the normal entries; None: 1 / sqrt(dim).

    Raises:
        InputError: if a size is below 1.

    Examples:
        >>> table = SparseTable(10, 4)
        >>> table(torch.tensor([[2, 0]])).shape, list(table.parameters())
        (torch.Size([1, 2, 4]), [])
    """

    def __init__(self, num_rows: int, dim: int, *, std: float | None = None) -> None:
        super().__init__(num_rows, dim)
        rows = torch.empty(num_rows, dim).normal_(std=dim**-0.5 if std is None else std)
        rows[PADDING] = 0.0
        self.register_buffer("shard", rows)

    def forward(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape dim"]:
        """Return the vector of each id; without gradients and beside the rows, by plain reading."""
        if self._plain(ids):
            return F.embedding(ids, self.shard)
        return super().forward(ids)

    def mean(self, ids: Int[Tensor, "rows length"]) -> Float[Tensor, "rows dim"]:
        """Return the mean of each row's ids without padding; zero where all is padding."""
        if self._plain(ids) and ids.shape[1]:
            return F.embedding_bag(ids, self.shard, mode="mean", padding_idx=PADDING)
        return super().mean(ids)

    def fetch(self, ids: Int[Tensor, " distinct"]) -> tuple[Float[Tensor, "distinct dim"], Tensor]:
        """Return the rows of distinct ids."""
        return self.shard.index_select(0, ids), ids

    def give_back(self, gradient: Float[Tensor, "distinct dim"], lookup: Tensor) -> RowGradient:
        """Return the gradient as one of rows."""
        return RowGradient(lookup, gradient.to(self.shard.device), [len(lookup)])

    @torch.no_grad()
    def put(self, ids: Int[Tensor, " ids"], rows: Float[Tensor, "ids dim"]) -> None:
        """Set the rows of distinct ids."""
        self.shard[ids.to(self.shard.device)] = rows.to(self.shard)

    def extra_repr(self) -> str:
        """Hold the sizes, and where the rows are."""
        return f"{self.num_rows}, {self.dim}, on {self.shard.device}"

    def _plain(self, ids: Tensor) -> bool:
        return not torch.is_grad_enabled() and ids.device == self.shard.device
