"""Training loop: rows, steps, validation, early stopping, checkpoints, exact resume."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.seeds import derive
from twotower.data.examples import Rows
from twotower.models.base import Model, Phased, is_selectable
from twotower.training.batching import Batching, RandomBatches
from twotower.training.callbacks import Callback, Record, StopTraining
from twotower.training.checkpoint import load_checkpoint, save_checkpoint
from twotower.training.config import Training
from twotower.training.interrupt import stop_requested
from twotower.training.objective import Objective
from twotower.training.optimize import build_optimizer, learning_rate

log = logging.getLogger(__name__)

Validate = Callable[[Model], dict[str, float]]


@dataclass
class Progress:
    """Hold the position of a run.

    With weights, optimiser, samplers and random states it is the whole checkpoint.
    """

    epoch: int = 0
    """Epochs that are done."""
    step: int = 0
    """Optimiser steps done, over all epochs."""
    loss_sum: float = 0.0
    """Sum of the steps' losses in the current epoch, in nats."""
    seconds: float = 0.0
    """Wall seconds of training, validation left out."""
    best: float = float("-inf")
    """Best validation metric so far."""
    best_epoch: int = 0
    records: list[Record] = field(default_factory=list)


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
) -> Progress:
    """Train ``model`` in place and leave it with its best weights by ``config.metric``.

    Without validation: the last weights.

    A run that is stopped and resumed from its checkpoint follows the same steps: on the CPU to the same bits.

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

    Raises:
        InputError: if the loss stops being finite, the metric has no such name, or the checkpoint is of another run.
        KeyboardInterrupt: after Ctrl-C, once the checkpoint is written.
    """
    batching = batching or RandomBatches(len(rows), config.batch_size, seed=config.seed)
    run = _Run(model, rows, objective, config, batching, validate, callbacks, checkpoint, epochs or config.epochs)
    if resume:
        if checkpoint is None:
            raise InputError("resume needs a checkpoint file")
        run.restore(load_checkpoint(checkpoint))
    device = next(model.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        if resume:
            run.restore_random()
        else:
            torch.manual_seed(derive(config.seed, "dropout"))
        run.go()
    return run.progress


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
    ) -> None:
        self.model, self.rows, self.objective, self.config, self.batching = model, rows, objective, config, batching
        self.validate = validate if config.evaluate_every else None
        self.callbacks, self.checkpoint, self.epochs = callbacks, checkpoint, epochs
        self.optimizer = build_optimizer(model, config)
        self.steps_per_epoch = -(-len(rows) // config.batch_size)
        self.progress = Progress()
        self.best_weights: dict[str, Tensor] = {}
        self.random: dict[str, Tensor] = {}

    def go(self) -> None:
        """Train to the end, or until something asks to stop."""
        progress = self.progress
        for callback in self.callbacks:
            callback.started(self.epochs, self.steps_per_epoch, progress.step)
        try:
            with stop_requested() as stop:
                while progress.epoch < self.epochs and not self._out_of_patience():
                    self._epoch(stop)
        except StopTraining:
            self.save()
        finally:
            for callback in self.callbacks:
                callback.finished()
        if self.best_weights:
            self.model.load_state_dict(self.best_weights)
        elif self.validate is not None and progress.records:
            log.warning(
                "no epoch was validated whose weights were trained as they are served: those of the last are kept; "
                "train for more epochs"
            )

    def _epoch(self, stop: Callable[[], bool]) -> None:
        progress, config = self.progress, self.config
        started = saved = time.perf_counter()
        before = progress.seconds
        summed = torch.tensor(progress.loss_sum, dtype=torch.float64, device=next(self.model.parameters()).device)
        self.model.train()
        for batch_rows in self._rest_of_epoch():
            summed += self._step(batch_rows)
            progress.step += 1
            for callback in self.callbacks:
                callback.stepped(progress.step)
            now = time.perf_counter()
            if stop() or now - saved > config.checkpoint_seconds:
                saved = now
                progress.loss_sum, progress.seconds = float(summed), before + now - started
                self.save()
                if stop():
                    raise KeyboardInterrupt
        progress.loss_sum = float(summed)
        progress.seconds = before + time.perf_counter() - started
        self._finish_epoch()

    def _rest_of_epoch(self) -> Iterator[Tensor]:
        done = self.progress.step - self.progress.epoch * self.steps_per_epoch
        yield from self.batching.batches(self.progress.epoch, self.model)[done:]

    def _step(self, batch_rows: Tensor) -> Tensor:
        config = self.config
        rate = learning_rate(config, self.progress.step, config.epochs * self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if isinstance(self.model, Phased):
            self.model.set_progress(self.progress.step / self.steps_per_epoch)
        batch = self.rows.cut(batch_rows)
        with torch.autocast(batch.users.ids.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            loss = self.objective(self.model, batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if config.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        self.optimizer.step()
        return loss.detach()

    def _finish_epoch(self) -> None:
        progress, config = self.progress, self.config
        mean = progress.loss_sum / self.steps_per_epoch
        if not mean < float("inf"):
            raise InputError(
                f"epoch {progress.epoch + 1}: the loss is {mean}; lower training.learning_rate or set clip_norm"
            )
        progress.epoch += 1
        progress.loss_sum = 0.0
        rate = self.optimizer.param_groups[0]["lr"]
        record: Record = {
            "epoch": progress.epoch,
            "step": progress.step,
            "loss": mean,
            "learning_rate": rate,
            "seconds": round(progress.seconds, 3),
        }
        validated = self.validate is not None and (
            progress.epoch % config.evaluate_every == 0 or progress.epoch == self.epochs
        )
        if validated and self.validate is not None:
            record |= self._judge(self.validate(self.model))
        progress.records.append(record)
        wish: StopTraining | None = None
        for callback in self.callbacks:
            try:
                callback.epoch_done(record, self.model)
            except StopTraining as stop:
                wish = stop  # the others, such as the log, are to hear of this epoch all the same
        if validated:
            self.save()
        if wish is not None:
            raise wish

    def _judge(self, metrics: dict[str, float]) -> dict[str, float]:
        progress, name = self.progress, self.config.metric
        if name not in metrics:
            raise InputError(f"training.metric is '{name}', but validation gives {', '.join(metrics)}")
        if is_selectable(self.model) and metrics[name] > progress.best:
            progress.best, progress.best_epoch = metrics[name], progress.epoch
            self.best_weights = {key: value.detach().clone() for key, value in self.model.state_dict().items()}
        return metrics

    def _out_of_patience(self) -> bool:
        if not self.progress.best_epoch:  # nothing yet that the model would serve with: see `Phased`
            return False
        config = self.config
        judged = [r for r in self.progress.records if config.metric in r]
        worse = 0
        last = next(r["step"] for r in judged if r["epoch"] == self.progress.best_epoch)
        for record in judged:
            if record["epoch"] > self.progress.best_epoch and record["step"] - last >= config.patience_steps:
                worse, last = worse + 1, record["step"]
        return 0 < config.patience <= worse and not (config.patience_loss and self._still_falls(judged))

    def _still_falls(self, judged: list[Record]) -> bool:
        """Whether the training loss fell by more than `Training.patience_loss` since the evaluation before."""
        if len(judged) < 2:
            return False
        before, now = judged[-2]["loss"], judged[-1]["loss"]
        return bool(before - now > self.config.patience_loss * abs(before))

    def save(self) -> None:
        """Write the checkpoint."""
        if self.checkpoint is None:
            return
        state: dict[str, Any] = {
            "rows": len(self.rows),
            "progress": vars(self.progress),
            "model": self.model.state_dict(),
            "best": self.best_weights,
            "optimizer": self.optimizer.state_dict(),
            "loss": self.objective.state_dict(),
            "batching": self.batching.state_dict(),
            "random": {"cpu": torch.get_rng_state()},
        }
        if torch.cuda.is_available():
            state["random"]["cuda"] = torch.cuda.get_rng_state()
        save_checkpoint(self.checkpoint, state)

    def restore(self, state: dict[str, Any]) -> None:
        """Take everything but the random state from a checkpoint."""
        if state["rows"] != len(self.rows):
            raise InputError(f"{self.checkpoint}: made with {state['rows']} training rows, these are {len(self.rows)}")
        try:
            self.model.load_state_dict(state["model"])
        except RuntimeError as error:
            raise InputError(f"{self.checkpoint}: another model's checkpoint ({str(error).splitlines()[0]})") from None
        self.progress = Progress(**state["progress"])
        device = next(self.model.parameters()).device
        self.best_weights = {name: value.to(device) for name, value in state["best"].items()}
        self.optimizer.load_state_dict(state["optimizer"])
        self.objective.load_state_dict(_on(device, state["loss"]))
        self.batching.load_state_dict(state["batching"])
        self.random = state["random"]

    def restore_random(self) -> None:
        """Take the random state from the checkpoint that `restore` read."""
        torch.set_rng_state(self.random["cpu"])
        if "cuda" in self.random and torch.cuda.is_available():
            torch.cuda.set_rng_state(self.random["cuda"])


def _on(device: torch.device, state: dict[str, Any]) -> dict[str, Any]:
    """Tensors of a checkpoint on the device of the run; torch wants states of generators on the CPU."""
    return {name: part if name.endswith("generator") else part.to(device) for name, part in state.items()}
