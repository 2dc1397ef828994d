"""One optimiser step of a single process: objective, gradients, clipping, update."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

from twotower.core.records import Batch
from twotower.data.examples import Rows
from twotower.models.base import Model
from twotower.training.compiled import CompiledParts
from twotower.training.config import Training
from twotower.training.objective import Objective


class Step:
    """Take one step on the rows of a batch, or on a batch that has been cut.

    Args:
        model: to train.
        rows: that cut the batch.
        objective: one batch to a scalar.
        optimizer: of the model's weights; its learning rate is set before each step.
        config: clipping and precision.
        compiled: the parts of the model that are compiled for a full batch; None: none.
    """

    def __init__(
        self,
        model: Model,
        rows: Rows,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        config: Training,
        compiled: CompiledParts | None = None,
    ) -> None:
        self.model, self.rows, self.objective, self.optimizer = model, rows, objective, optimizer
        self.config, self.compiled = config, compiled

    def __call__(self, given: Tensor | Batch) -> Tensor:
        """Return the loss, detached, once the weights have moved."""
        batch = given if isinstance(given, Batch) else self.rows.cut(given)
        full = len(batch.users.ids) == min(self.config.batch_size, len(self.rows))
        with contextlib.nullcontext() if self.compiled is None or not full else self.compiled.used():
            loss = self.loss(batch)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
        self.update()
        return loss.detach()

    def loss(self, batch: Batch) -> Tensor:
        """Return the loss of a batch in the run's precision, with its graph."""
        kind = batch.users.ids.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            return self.objective(self.model, batch)

    def update(self) -> None:
        """Move the weights, with gradients clipped where the run says so."""
        if self.config.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimizer.step()
