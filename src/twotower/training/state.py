"""State of a training: its position, weights, optimiser, samplers and random states, as a checkpoint keeps them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from twotower.core.errors import InputError
from twotower.towers.shared_table import own_states, own_weights, shared_out, whole_states, whole_weights
from twotower.training.batching import Batching
from twotower.training.callbacks import EpochRecord
from twotower.training.checkpoint import save_checkpoint
from twotower.training.objective import Objective
from twotower.training.optimize import plain_state, restore_state
from twotower.training.steps import Steps


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
    records: list[EpochRecord] = field(default_factory=list)


class State:
    """Hold all that a training needs to go on, and write it to its checkpoint.

    Args:
        steps: of the training, with its model, rows and optimiser.
        objective: whose samplers and schedules have a state.
        batching: likewise.
        checkpoint: file to write; None keeps none.
    """

    def __init__(self, steps: Steps, objective: Objective, batching: Batching, checkpoint: Path | None) -> None:
        self.steps, self.objective, self.batching, self.checkpoint = steps, objective, batching, checkpoint
        self.meets = bool(shared_out(steps.model))  # to write a checkpoint, which holds the rows of all
        self.progress = Progress()
        self.best_weights: dict[str, Tensor] = {}
        self.random: dict[str, Tensor] = {}

    def keep_best(self, value: float) -> None:
        """Note the weights of this epoch as the best so far, by the validation metric ``value``."""
        self.progress.best, self.progress.best_epoch = value, self.progress.epoch
        weights = self.steps.model.state_dict()
        self.best_weights = {name: weight.detach().clone() for name, weight in weights.items()}

    def save(self) -> None:
        """Write the checkpoint; where rows are shared out, all ranks hand theirs over."""
        model, world = self.steps.model, self.steps.world
        if self.checkpoint is None or (world.rank and not self.meets):
            return
        state: dict[str, Any] = {
            "rows": len(self.steps.rows),
            "progress": vars(self.progress) | {"records": [record.to_json() for record in self.progress.records]},
            "model": whole_weights(model, model.state_dict()),
            "best": whole_weights(model, self.best_weights),
            "optimizer": whole_states(model, plain_state(self.steps.optimizer)),
            "loss": self.objective.state_dict(),
            "batching": self.batching.state_dict(),
            "random": {"cpu": torch.get_rng_state()},
        }
        if torch.cuda.is_available():
            state["random"]["cuda"] = torch.cuda.get_rng_state()
        if not world.rank:
            save_checkpoint(self.checkpoint, state)

    def restore(self, state: dict[str, Any]) -> None:
        """Take everything but the random state from a checkpoint."""
        model, rows = self.steps.model, len(self.steps.rows)
        if state["rows"] != rows:
            raise InputError(f"{self.checkpoint}: made with {state['rows']} training rows, these are {rows}")
        try:
            model.load_state_dict(own_weights(model, state["model"]))
        except RuntimeError as error:
            raise InputError(f"{self.checkpoint}: another model's checkpoint ({str(error).splitlines()[0]})") from None
        records = [EpochRecord.from_json(values) for values in state["progress"]["records"]]
        self.progress = Progress(**(state["progress"] | {"records": records}))
        places = {name: value.device for name, value in model.state_dict().items()}  # a host table's stay there
        best = own_weights(model, state["best"])
        self.best_weights = {name: value.to(places.get(name, self.steps.device)) for name, value in best.items()}
        self.steps.set_rate(restore_state(self.steps.optimizer, own_states(model, state["optimizer"])))
        self.objective.load_state_dict(_on(self.steps.device, state["loss"]))
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
