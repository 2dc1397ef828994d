"""The table protocol: ids to vectors, wherever the rows are kept."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor, nn

from twotower.towers.embedding import embedding_table, mean_of_rows


@runtime_checkable
class Table(Protocol):
    """Map ids to vectors. Padding (row 0) is the zero vector, and stays it."""

    num_rows: int
    dim: int

    def __call__(self, ids: Tensor) -> Tensor:
        """Return the vector of each id: int64 of any shape to [*shape, dim]."""
        ...

    def mean(self, ids: Tensor) -> Tensor:
        """Return the mean of each row's ids without padding; zero where all is padding."""
        ...


class DenseTable(nn.Module):
    """Hold a table whose rows are one weight of the model, all of it on every device.

    Args:
        num_rows: rows of the vocabulary, padding and unknown included.
        dim: width of a vector.
        std: of the normal entries; None: 1 / sqrt(dim).
    """

    def __init__(self, num_rows: int, dim: int, *, std: float | None = None) -> None:
        super().__init__()
        self.num_rows, self.dim = num_rows, dim
        self.rows = embedding_table(num_rows, dim, std=std)

    def forward(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape dim"]:
        """Return the vector of each id."""
        return self.rows(ids)

    def mean(self, ids: Int[Tensor, "rows length"]) -> Float[Tensor, "rows dim"]:
        """Return the mean of each row's ids without padding; zero where all is padding."""
        return mean_of_rows(self.rows.weight, ids)
