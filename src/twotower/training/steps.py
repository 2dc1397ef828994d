"""Steps of a run: cut ahead, compiled, captured, or shared out over ranks, as its settings say."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import Batch
from twotower.data.dataset import Dataset
from twotower.data.examples import Rows
from twotower.models.base import Model
from twotower.training.captured_step import CapturedStep, why_not_captured
from twotower.training.compiled import CompiledParts
from twotower.training.config import Training
from twotower.training.distributed import World
from twotower.training.feed import fed
from twotower.training.objective import Objective, Replayable
from twotower.training.optimize import build_optimizer, set_rate
from twotower.training.replicas import average_gradients
from twotower.training.step import Step
from twotower.training.with_rows import WithRows

log = logging.getLogger(__name__)

CAPTURED = ("cuda",)
"""Kinds of device on which a step can be captured."""


class Steps:
    """Take the steps of a training as its settings say, in the order in which batches come.

    Args:
        model: on the device of the steps.
        rows: that cut batches.
        objective: one batch to a scalar.
        config: of the training.
        world: the processes that train as one.
        ahead: batches that a thread cuts before they are asked for; several ranks cut their own when a step begins.

    Raises:
        InputError: if the run asks for a captured step, and its steps cannot be captured: says why.
    """

    def __init__(
        self, model: Model, rows: Rows, objective: Objective, config: Training, world: World, *, ahead: int = 0
    ) -> None:
        self.model, self.rows, self.config, self.world, self.ahead = model, rows, config, world, ahead
        self.device = next(model.parameters()).device
        self.rate: float | None = None
        captured = self._captures(objective)
        self.optimizer = build_optimizer(model, config, captured=captured)
        compiled = CompiledParts(model) if config.compile and self._can_compile() else None
        self.step = Step(model, rows, objective, self.optimizer, config, compiled)
        self.take: Callable[[Tensor | Batch], Tensor] = self.step
        if captured and isinstance(objective, Replayable):
            full, at_will = min(config.batch_size, len(rows)), config.capture == "auto"
            self.take = CapturedStep(self.step, full, self.device, objective.generators(), at_will=at_will)
        self.captured = captured

    def given(self, batches: Iterator[Tensor]) -> Iterator[Tensor | Batch]:
        """Give what each step takes: rows where the step cuts them itself, else batches."""
        dataset = getattr(self.rows, "dataset", None)
        near = isinstance(dataset, Dataset) and dataset.is_near
        if self.world.size > 1 or (self.captured and not self.ahead and not near):
            return batches
        return fed(self.rows.cut, batches, self.device, ahead=self.ahead)

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of the next step."""
        set_rate(self.optimizer, rate, self.rate)
        self.rate = rate

    def __call__(self, given: Tensor | Batch, *, step: int, stop: bool, save: bool = False) -> Tensor:
        """Take one step and return its loss, detached, which the next step may overwrite.

        Args:
            given: the rows of a batch, or a batch.
            step: its number, from 0.
            stop: whether this rank is to stop, which the others are told.
            save: whether a checkpoint is due, likewise.
        """
        if self.world.size == 1:
            return self.take(given)
        assert isinstance(given, Tensor)
        batch = self.rows.cut(self.world.share(given))
        self.world.reseed(self.config.seed, step)
        rows = self.world.tell(batch, stop=stop, save=save)
        loss = self.step.loss(batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss = loss * rows
        loss.backward()
        loss = average_gradients(self.world, self.model, loss)
        if isinstance(self.optimizer, WithRows):
            self.optimizer.divisor = self.world.total()
        self.step.update()
        return loss.detach()

    def _captures(self, objective: Objective) -> bool:
        """Whether steps are captured; what was asked for and cannot be is told or refused."""
        wanted = self.config.capture
        here = self.device.type in CAPTURED and self.world.size == 1
        known = bool(vars(type(self.model)).get("same_steps"))  # of the class itself: a subclass may do more
        if wanted == "off" or (wanted == "auto" and not (here and known)):
            return False
        if self.device.type not in CAPTURED:
            log.warning("training.capture is for a GPU; on '%s' steps are taken as ever", self.device.type)
        elif self.world.size > 1:
            log.warning("training.capture is for one process; on %d ranks steps are taken as ever", self.world.size)
        if not here:
            return False
        reason = why_not_captured(self.model, objective, self.config)
        if reason and wanted == "on":
            raise InputError(f"training.capture: {reason}; set training.capture = 'auto'")
        return not reason

    def _can_compile(self) -> bool:
        if self.world.size > 1:
            log.warning("training.compile is for one process; on %d ranks encoders run as they are", self.world.size)
        return self.world.size == 1
