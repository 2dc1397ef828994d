"""An optimiser of weights together with those of tables whose rows are no weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from twotower.core.errors import InputError
from twotower.towers.row_table import RowTable


@runtime_checkable
class RowOptimizer(Protocol):
    """Move the rows of a table by the gradients that backward passes left with it: `RowAdagrad`, or TorchRec's."""

    @property
    def table(self) -> RowTable:
        """Return the table whose rows it moves."""
        ...

    def step(self, *, rows: int = 1, rate: float | None = None) -> None:
        """Move the touched rows; gradients are divided by ``rows``."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Return what a resumed run needs, one row a row of the shard."""
        ...

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` gave."""
        ...


class WithRows(torch.optim.Optimizer):
    """Update the weights, then the rows of each table, at a learning rate that follows that of the weights.

    Args:
        weights: optimiser of the model's weights, whose groups these are.
        rows: optimisers of the tables, by the place of the table in the model.
        ratio: learning rate of rows over that of weights.

    Attributes:
        divisor: what gradients of rows are divided by in the next step: 1 where the loss is a mean, and where it is a
            sum, as on several ranks, the rows of the batch of all of them.
    """

    def __init__(self, weights: torch.optim.Optimizer, rows: Mapping[str, RowOptimizer], *, ratio: float) -> None:
        super().__init__([part for group in weights.param_groups for part in group["params"]], {})
        self.weights, self.rows, self.ratio = weights, dict(rows), ratio
        self.divisor = 1
        self.param_groups = weights.param_groups  # one list: a rate that is set here is that of the weights

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update the weights and the rows that a backward pass touched."""
        self.weights.step(closure)
        for optimizer in self.rows.values():
            optimizer.step(rows=self.divisor, rate=self.param_groups[0]["lr"] * self.ratio)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of weights and rows."""
        self.weights.zero_grad(set_to_none)
        for optimizer in self.rows.values():
            optimizer.table.gradients.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return the states of weights and rows."""
        return {"weights": self.weights.state_dict(), "rows": {name: one.state() for name, one in self.rows.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` gave.

        Raises:
            InputError: if it is that of other tables.
        """
        if set(state_dict.get("rows", ())) != set(self.rows):
            raise InputError(
                f"the saved optimiser has tables {sorted(state_dict.get('rows', ()))}, the model {sorted(self.rows)}: "
                "another model's checkpoint"
            )
        self.weights.load_state_dict(state_dict["weights"])
        self.param_groups = self.weights.param_groups
        for name, optimizer in self.rows.items():
            optimizer.load_state(state_dict["rows"][name])
