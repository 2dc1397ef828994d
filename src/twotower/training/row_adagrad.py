"""Row-wise Adagrad: sparse rows in, one number of state a row."""

from __future__ import annotations

import torch
from torch import Tensor

from twotower.core.errors import InputError, unknown_name
from twotower.ops.rounding import rounded_to_bfloat16
from twotower.towers.row_table import RowTable, restore_squares

STATES = ("float32", "bfloat16")


class RowAdagrad:
    """Update each row that had a gradient g: s ← s + mean(g²), w ← w − rate · g / (√s + eps).

    Other rows are not read.

    State is one number a row, float32 or bfloat16, where Adam has two for each number. A step needs no other rank:
    owners hold all they need. In bfloat16, sums are rounded up or down by chance, since the nearest number would soon
    be the old one; chance is drawn from the row and its gradient, so that a run repeats and resumes.

    Source: Duchi et al., JMLR 2011, with the mean over the row in place of each number's own sum, as in FBGEMM
    (EXACT_ROWWISE_ADAGRAD).

    Args:
        table: whose shard is changed in place.
        rate: learning rate of a step that names none.
        eps: added to the root.
        state: type of the state: "float32" (float64 for rows in float64) or "bfloat16".

    Attributes:
        squares: sum of mean squares of each row of the shard.

    Raises:
        InputError: if the rate is negative, ``eps`` is not positive, or the type is unknown.
    """

    def __init__(self, table: RowTable, *, rate: float, eps: float = 1e-8, state: str = "float32") -> None:
        if not 0.0 <= rate < float("inf") or not 0.0 < eps < float("inf"):
            raise InputError(f"row-wise Adagrad: rate must be 0 or more and eps above 0, got {rate} and {eps}")
        if state not in STATES:
            raise unknown_name("state of row-wise Adagrad", state, STATES)
        self.table, self.rate, self.eps = table, rate, eps
        whole = torch.promote_types(table.shard.dtype, torch.float32)
        dtype = torch.bfloat16 if state == "bfloat16" else whole
        self.squares = torch.zeros(len(table.shard), dtype=dtype, device=table.shard.device)

    @torch.no_grad()
    def step(self, *, rows: int = 1, rate: float | None = None) -> None:
        """Take the gradients that backward passes left with the table, and move its rows.

        Args:
            rows: what gradients are divided by: rows of the batch of all ranks where the loss was a sum over rows, as
                `twotower.training.loop.fit` makes it on several ranks; 1 where it was the mean.
            rate: learning rate of this step; None: that of the optimiser.

        Raises:
            InputError: if ``rows`` is below 1.
        """
        if rows < 1:
            raise InputError(f"row-wise Adagrad: gradients of {rows} rows")
        touched, gradient = self.table.take_gradient()
        gradient /= rows
        squares = self.squares.index_select(0, touched) + gradient.square().mean(1)
        if self.squares.dtype == torch.bfloat16:
            squares = rounded_to_bfloat16(squares.float(), (gradient.float() + self.table.shard[touched]).sum(1))
        self.squares.index_copy_(0, touched, squares)
        squares = squares.to(gradient.dtype)
        gradient /= (squares.sqrt() + self.eps)[:, None]
        gradient *= -(self.rate if rate is None else rate)
        # Touched rows are distinct.
        self.table.shard.index_add_(0, touched, gradient.to(self.table.shard.dtype))

    def state(self) -> dict[str, Tensor]:
        """Return what a resumed run needs, one row a row of the shard: for `twotower.towers.table_files.save_table`."""
        return {"squares": self.squares}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` gave, as `twotower.towers.table_files.load_table` returns it.

        Raises:
            InputError: if it is that of another optimiser or of another shard.
        """
        restore_squares(self.squares, state)
