"""Training loop: rows, steps, validation, early stopping, checkpoints, exact resume."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from twotower.core.errors import InputError, shown
from twotower.core.records import Batch
from twotower.core.seeds import derive
from twotower.data.examples import Rows
from twotower.models.base import Model, Phased, UsesCodes, is_selectable
from twotower.ops.exchange import LostOwnerError
from twotower.training.batching import Batching, RandomBatches
from twotower.training.callbacks import Callback, EpochRecord, StopTraining
from twotower.training.checkpoint import load_checkpoint
from twotower.training.collectives import LostRankError
from twotower.training.config import Training
from twotower.training.distributed import World
from twotower.training.interrupt import Stopped, stop_requested
from twotower.training.objective import Objective
from twotower.training.optimize import learning_rate
from twotower.training.patience import is_out_of_patience
from twotower.training.replicas import same_weights
from twotower.training.state import Progress, State
from twotower.training.steps import Steps

log = logging.getLogger(__name__)

ECHO = 10.0
"""Seconds in which a rank takes a second Ctrl-C or SIGTERM for the first one, which torchrun sends on."""

Validate = Callable[[Model], dict[str, float]]


def fit(
    model: Model,
    rows: Rows,
    objective: Objective,
    config: Training,
    *,
    batching: Batching | None = None,
    validate: Validate | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: Path | None = None,
    resume: bool = False,
    epochs: int | None = None,
    world: World | None = None,
    ahead: int = 0,
) -> Progress:
    """Train ``model`` in place and leave it with its best weights by ``config.metric``.

    Without validation: the last weights.

    A run that is stopped and resumed from its checkpoint follows the same steps: on the CPU to the same bits. Where the
    learning rate does not depend on ``config.epochs``, so does a run that is resumed with more epochs.

    Args:
        model: on the device to train on.
        rows: cut into batches on their own device.
        objective: one batch to a scalar.
        config: the training section of the run.
        batching: which rows share a batch; None: random ones.
        validate: metrics of the model by name; more is better for ``config.metric``.
        callbacks: told of steps and epochs.
        checkpoint: file to write; None keeps none.
        resume: go on from ``checkpoint``.
        epochs: stop after so many, with the schedule of ``config.epochs``; None: all.
        world: the processes that train as one; each gives the same arguments, and rank 0 writes the checkpoint.
        ahead: batches that a thread cuts before they are asked for, which a GPU wants whose rows lie in main memory;
            0: none. Several ranks cut their own when a step begins.

    Raises:
        InputError: if the loss stops being finite, the metric has no such name, or the checkpoint is of another run.
        ConnectionError: if another rank is gone, or does not answer.
        Stopped: after Ctrl-C, once the checkpoint is written.
    """
    device = next(model.parameters()).device
    batching = batching or RandomBatches(len(rows), config.batch_size, seed=config.seed, pinned=device.type == "cuda")
    world = world or World()
    run = _Run(
        model, rows, objective, config, batching, validate, callbacks, checkpoint, epochs or config.epochs, world, ahead
    )
    if resume:
        if checkpoint is None:
            raise InputError("resume needs a checkpoint file")
        with world.together():
            run.state.restore(load_checkpoint(checkpoint))
    same_weights(world, model)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        if resume:
            run.state.restore_random()
        else:
            torch.manual_seed(derive(config.seed, "dropout"))
        try:
            run.go()
        except LostOwnerError as error:  # of rows of a table
            raise LostRankError(error.reason) from error
    return run.state.progress


class _Run:
    """One call of `fit`: what its parts share."""

    def __init__(
        self,
        model: Model,
        rows: Rows,
        objective: Objective,
        config: Training,
        batching: Batching,
        validate: Validate | None,
        callbacks: Sequence[Callback],
        checkpoint: Path | None,
        epochs: int,
        world: World,
        ahead: int,
    ) -> None:
        self.model, self.config, self.batching = model, config, batching
        self.validate = validate if config.evaluate_every else None
        self.callbacks, self.epochs, self.world = callbacks, epochs, world
        self.device = next(model.parameters()).device
        self.steps = Steps(model, rows, objective, config, world, ahead=ahead)
        self.state = State(self.steps, objective, batching, checkpoint)
        self.steps_per_epoch = -(-len(rows) // config.batch_size)

    def go(self) -> None:
        """Train to the end, or until something asks to stop."""
        progress = self.state.progress
        for callback in self.callbacks:
            callback.started(self.epochs, self.steps_per_epoch, progress.step)
        try:
            with stop_requested(echo=ECHO if self.world.size > 1 else 0.0) as stop:
                if self.world.size > 1 and not progress.step:
                    self.state.save()  # so that there is something to go on from, whenever a rank is lost
                while not self._is_over():
                    self._epoch(stop)
        except StopTraining:
            self.state.save()
        finally:
            for callback in self.callbacks:
                callback.finished()
        if self.state.best_weights:
            self.model.load_state_dict(self.state.best_weights)
        elif self.validate is not None and progress.records:
            log.warning(
                "no epoch was validated whose weights were trained as they are served: those of the last are kept; "
                "train for more epochs"
            )

    def _epoch(self, stop: Callable[[], bool]) -> None:
        progress, config = self.state.progress, self.config
        started = saved = time.perf_counter()
        before = progress.seconds
        summed = torch.tensor(progress.loss_sum, dtype=torch.float64, device=self.device)
        self.model.train()
        for given in self.steps.given(self._rest_of_epoch()):
            summed += self._step(given, stop(), time.perf_counter() - saved > config.checkpoint_seconds)
            progress.step += 1
            for callback in self.callbacks:
                callback.stepped(progress.step)
            now = time.perf_counter()
            stopping = self.world.stops(stop())
            if stopping or self.world.saves(now - saved > config.checkpoint_seconds):
                saved = now
                progress.loss_sum, progress.seconds = float(summed), before + now - started
                self.state.save()
                if stopping:
                    raise Stopped
        stopping = self.world.any(stop())  # since the last step began; a lost rank is found here, before a GPU waits
        progress.loss_sum = float(summed)
        progress.seconds = before + time.perf_counter() - started
        if stopping:
            self.state.save()
            raise Stopped
        self._finish_epoch()

    def _rest_of_epoch(self) -> Iterator[Tensor]:
        done = self.state.progress.step - self.state.progress.epoch * self.steps_per_epoch
        batches = self.batching.batches(self.state.progress.epoch, self.model)
        if not isinstance(self.batching, RandomBatches):
            batches = self.world.same_batches(list(batches))
        return islice(batches, done, None)

    def _step(self, given: Tensor | Batch, stop: bool, save: bool) -> Tensor:
        progress, config = self.state.progress, self.config
        self.steps.set_rate(learning_rate(config, progress.step, config.epochs * self.steps_per_epoch))
        if isinstance(self.model, Phased):
            self.model.set_progress(progress.step / self.steps_per_epoch)
        return self.steps(given, step=progress.step, stop=stop, save=save)

    def _finish_epoch(self) -> None:
        progress, config = self.state.progress, self.config
        mean = progress.loss_sum / self.steps_per_epoch
        if not mean < float("inf"):
            raise self.world.said(
                f"epoch {progress.epoch + 1}: the loss is {mean}; lower training.learning_rate or set clip_norm"
            )
        last, regular = progress.epoch + 1 == self.epochs, (progress.epoch + 1) % (config.evaluate_every or 1) == 0
        extra = self.validate is not None and last and not regular
        if extra:
            self.state.save()  # a run of more epochs does not validate here, so it goes on from before
        progress.epoch += 1
        progress.loss_sum = 0.0
        record = EpochRecord(
            progress.epoch,
            progress.step,
            mean,
            self.steps.rate or 0.0,
            round(progress.seconds, 3),
            selectable=is_selectable(self.model),
        )
        if isinstance(self.model, UsesCodes) and (use := self.model.code_use()) is not None:
            record.codes.update(use._asdict())
        validated = self.validate is not None and (regular or last)
        if validated and self.validate is not None:
            record.metrics.update(self._judge(self.world.same_numbers(self.validate(self.model))))
        progress.records.append(record)
        wish: StopTraining | None = None
        for callback in self.callbacks:
            try:
                callback.epoch_done(record, self.model)
            except StopTraining as stop:
                wish = stop  # the others, such as the log, are to hear of this epoch all the same
        if (validated or last) and not extra:
            self.state.save()
        stopping = self.world.any(wish is not None and not extra)  # after the extra one the training is over anyway
        if stopping:
            raise wish or StopTraining("another rank asked to stop")

    def _judge(self, metrics: dict[str, float]) -> dict[str, float]:
        progress, name = self.state.progress, self.config.metric
        if name not in metrics:
            raise InputError(f"training.metric is {shown(name)}, but validation gives {', '.join(metrics)}")
        if is_selectable(self.model) and metrics[name] > progress.best:
            self.state.keep_best(metrics[name])
        return metrics

    def _is_over(self) -> bool:
        progress = self.state.progress
        return progress.epoch >= self.epochs or is_out_of_patience(progress.records, progress.best_epoch, self.config)
