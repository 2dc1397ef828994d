"""Optimiser, and the learning rate of each step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from twotower.core.errors import InputError
from twotower.ops.exchange import Place
from twotower.towers.row_table import RowTable
from twotower.towers.sparse_table import SparseTable
from twotower.towers.torchrec_table import FusedRows, TorchRecTable
from twotower.training.config import Training
from twotower.training.row_adagrad import RowAdagrad
from twotower.training.with_rows import RowOptimizer, WithRows


def build_optimizer(model: nn.Module, config: Training, *, captured: bool = False) -> torch.optim.Optimizer:
    """Build the optimiser of a run, in its fused form, with row-wise Adagrad for sparse, host and sharded tables.

    Args:
        model: whose weights it moves.
        config: kind, first rate and decay.
        captured: whether its update will be part of a captured step. The learning rate then lies on the device, in
            float32, and every step, captured or not, reads it there.

    Raises:
        InputError: if the run asks of such a table what is not done to its rows, or there are several ranks.
    """
    kinds: dict[str, type[torch.optim.Optimizer]] = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "adagrad": torch.optim.Adagrad,
        "sgd": torch.optim.SGD,
    }
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # The fused Adagrad has no CUDA form.
    fused = not (config.optimizer == "adagrad" and parameters[0].is_cuda)
    options: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay, "fused": fused}
    if captured:
        options["lr"] = torch.tensor(config.learning_rate, device=parameters[0].device)
        options["capturable"] = parameters[0].is_cuda
    weights = kinds[config.optimizer](parameters, **options)
    tables = {name: part for name, part in model.named_modules() if isinstance(part, RowTable)}
    _check_rows(config, list(tables.values()))
    if not tables:
        return weights
    rate = config.row_rate or config.learning_rate
    rows: dict[str, RowOptimizer] = {
        name: FusedRows(table, rate=rate, state=config.row_state)
        if isinstance(table, TorchRecTable)
        else RowAdagrad(table, rate=rate, state=config.row_state)
        for name, table in tables.items()
    }
    return WithRows(weights, rows, ratio=rate / config.learning_rate if config.learning_rate else 1.0)


def _check_rows(config: Training, tables: list[RowTable]) -> None:
    """Refuse settings of rows that a model has not, and what is not done to rows."""
    if not tables:
        if config.row_rate or config.row_state != Training.row_state:
            raise InputError(
                "training.row_rate and row_state are of the rows of sparse, host and sharded tables, and this model "
                "has none: leave them out, or set model.table = 'sparse'"
            )
        return
    if Place.current().size > 1 and any(isinstance(table, SparseTable) for table in tables):
        raise InputError(
            "sparse and host tables are trained by one process: start it without torchrun, or set "
            "model.table = 'sharded'"
        )
    for key in ("clip_norm", "weight_decay"):
        if getattr(config, key):
            raise InputError(
                f"training.{key} reaches weights alone, and the rows of sparse, host and sharded tables are none: set "
                "it to 0, or model.table = 'dense'"
            )
    if config.row_rate and not config.learning_rate:
        raise InputError(
            "training.row_rate follows the schedule of training.learning_rate, which is 0, so that no row would move: "
            "raise learning_rate"
        )


def set_rate(optimizer: torch.optim.Optimizer, rate: float, before: float | None) -> None:
    """Set the learning rate of the next step; ``before``: that of the last one, None: not known."""
    for group in optimizer.param_groups:
        if not isinstance(group["lr"], Tensor):
            group["lr"] = rate
        elif rate != before:
            group["lr"].fill_(rate)


def plain_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the state as a checkpoint holds it: alike for steps that are captured and for others."""
    state = optimizer.state_dict()
    if isinstance(optimizer, WithRows):  # its steps are never captured
        return state
    groups = [group | {"lr": float(group["lr"])} for group in state["param_groups"]]
    return state | {"param_groups": groups}


def restore_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> float:
    """Take moments and step counts from a checkpoint, and return the learning rate of its last step.

    How steps are taken stays as the optimiser was built.
    """
    built = [{name: group[name] for name in _BUILT if name in group} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    rate = float(optimizer.param_groups[0]["lr"])
    for group, own in zip(optimizer.param_groups, built, strict=True):
        group.update(own)
    return rate


_BUILT = ("lr", "capturable", "fused", "foreach")


def learning_rate(config: Training, step: int, total: int) -> float:
    """Return the learning rate of optimiser step ``step`` (from 0) of ``total``.

    Examples:
        >>> [learning_rate(Training(learning_rate=1.0, schedule="linear", warmup_steps=2), s, 6) for s in range(6)]
        [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    done = (step - config.warmup_steps) / max(1, total - config.warmup_steps)
    left = 1 - done if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return config.learning_rate * left
