"""The table protocol: ids to vectors, wherever the rows are kept. No other code reads or sets rows in another way."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from twotower.core.records import PADDING


@runtime_checkable
class Table(Protocol):
    """Map ids to vectors. Padding (row 0) is the zero vector, and stays it.

    Attributes:
        num_rows: ids that it maps, padding and unknown included.
        dim: width of a vector.
        row_an_id: whether each id has a row of its own; else ids share rows, but for padding and the unknown id.
    """

    num_rows: int
    dim: int
    row_an_id: bool

    def __call__(self, ids: Tensor) -> Tensor:
        """Return the vector of each id: int64 of any shape to [*shape, dim]."""
        ...

    def mean(self, ids: Tensor) -> Tensor:
        """Return the mean of each row's ids without padding; zero where all is padding."""
        ...

    def whole(self) -> Tensor:
        """Return the vectors of all ids, in their order, with gradients."""
        ...

    def put(self, ids: Tensor, rows: Tensor) -> None:
        """Set the rows of distinct ids, without gradients.

        Raises:
            InputError: if an id shares its row with others.
        """
        ...


class DenseTable(nn.Embedding):
    """Hold a table whose rows are one weight of the model, all of it on every device.

    Args:
        num_rows: rows of the vocabulary, padding and unknown included.
        dim: width of a vector.
        std: of the normal entries; None: 1 / sqrt(dim).
    """

    row_an_id = True

    def __init__(self, num_rows: int, dim: int, *, std: float | None = None) -> None:
        super().__init__(num_rows, dim, padding_idx=PADDING)
        self.num_rows, self.dim = num_rows, dim
        with torch.no_grad():
            self.weight.normal_(std=dim**-0.5 if std is None else std)
            self.weight[PADDING].zero_()

    def mean(self, ids: Int[Tensor, "rows length"]) -> Float[Tensor, "rows dim"]:
        """Return the mean of each row's ids without padding; zero where all is padding."""
        return mean_of_rows(self.weight, ids)

    def whole(self) -> Float[Tensor, "ids dim"]:
        """Return the vectors of all ids, in their order: the weight itself."""
        return self.weight

    @torch.no_grad()
    def put(self, ids: Int[Tensor, " ids"], rows: Float[Tensor, "ids dim"]) -> None:
        """Set the rows of distinct ids."""
        self.weight[ids] = rows.to(self.weight)


def mean_of_rows(table: Float[Tensor, "entries dim"], ids: Int[Tensor, "rows length"]) -> Float[Tensor, "rows dim"]:
    """Return the mean of the table's rows ``ids`` without padding; zero where all is padding.

    No vector is made for a place, except in a graph that is exported: ONNX has no such sum, and would loop over rows.
    """
    if not ids.shape[1]:
        return table.new_zeros(ids.shape[0], table.shape[1])
    if torch.compiler.is_exporting():
        there = (ids != PADDING)[:, :, None].to(table.dtype)
        return (F.embedding(ids, table) * there).sum(1) / there.sum(1).clamp(min=1.0)
    return F.embedding_bag(ids, table, mode="mean", padding_idx=PADDING)
