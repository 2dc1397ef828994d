"""A table whose rows are shared out over ranks: ids go to the owners of their rows, rows come back, so do gradients."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import PADDING
from twotower.ops.exchange import Exchange, Place
from twotower.ops.uniform_by_id import uniform_by_id
from twotower.towers.row_table import RowGradient, RowTable

_TILE = 1 << 24
"""Numbers that are drawn at a time."""


class ShardedTable(RowTable):
    """Keep row i on rank i mod ranks, as row i // ranks of its shard; a lookup moves each distinct row once.

    The shard is a buffer, and no weight of the model: its gradient is kept as sparse rows by the owner, in the order of
    lookups and ranks, until an optimiser such as `twotower.training.row_adagrad.RowAdagrad` takes it. Rows are drawn by
    their id, so that the table is the same on any number of ranks and on any device.

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
        InputError: if a size is below 1, ``std`` is negative, or there are more ranks than rows.

    Examples:
        >>> table = ShardedTable(10, 4, seed=0)
        >>> table(torch.tensor([[2, 0]])).shape, table.mean(torch.tensor([[2, 0]])).shape
        (torch.Size([1, 2, 4]), torch.Size([1, 4]))
    """

    def __init__(
        self,
        num_rows: int,
        dim: int,
        *,
        seed: int,
        std: float | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(num_rows, dim)
        std = dim**-0.5 if std is None else std
        if not 0.0 <= std < float("inf"):
            raise InputError(f"a table's standard deviation must be 0 or more, got {std}")
        self.place = Place.current()
        if num_rows < self.place.size:
            raise InputError(
                f"a table of {num_rows} rows cannot be shared out over {self.place.size} ranks: each needs a row; "
                "start fewer ranks, or take a dense table"
            )
        # Of this rank alone: `twotower.towers.shared_table` makes what is kept of it.
        self.register_buffer("shard", drawn_rows(self.own_ids(device), dim, seed=seed, std=std))

    def own_ids(self, device: torch.device | str | None = None) -> Int[Tensor, " rows"]:
        """Return the ids of this rank's rows, in the order of the shard."""
        rank, size = self.place
        return torch.arange(rank, self.num_rows, size, device=self.shard.device if device is None else device)

    def fetch(self, ids: Int[Tensor, " distinct"]) -> tuple[Float[Tensor, "distinct dim"], tuple[Exchange, Tensor]]:
        """Return the rows of distinct ids from their owners."""
        exchange = Exchange(ids % self.place.size, self.place.size)
        slots = exchange.to_owners(ids // self.place.size)
        return exchange.to_askers(self.shard.index_select(0, slots)), (exchange, slots)

    def give_back(self, gradient: Float[Tensor, "distinct dim"], lookup: tuple[Exchange, Tensor]) -> RowGradient:
        """Send the gradient of each row to its owner, and return what this rank got as one."""
        exchange, slots = lookup
        return RowGradient(slots, exchange.to_owners(gradient), exchange.received)

    @torch.no_grad()
    def put(self, ids: Int[Tensor, " ids"], rows: Float[Tensor, "ids dim"]) -> None:
        """Set the rows of distinct ids; every rank names all of them, and keeps its own."""
        own = (ids % self.place.size == self.place.rank).nonzero()[:, 0]
        self.shard[ids[own] // self.place.size] = rows[own].to(self.shard)

    def extra_repr(self) -> str:
        """Hold the sizes, and which share this is."""
        return f"{self.num_rows}, {self.dim}, rank {self.place.rank} of {self.place.size}"


def drawn_rows(ids: Int[Tensor, " rows"], dim: int, *, seed: int, std: float) -> Float[Tensor, "rows dim"]:
    """Draw uniform rows of a standard deviation by their ids; zero for padding."""
    rows = torch.empty(len(ids), dim, device=ids.device)
    step = max(1, _TILE // dim)
    for start in range(0, len(ids), step):
        rows[start : start + step] = uniform_by_id(ids[start : start + step], dim, seed=seed)
    rows *= std * 3.0**0.5
    return rows.masked_fill_((ids == PADDING)[:, None], 0.0)
