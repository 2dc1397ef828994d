"""Optimiser, and the learning rate of each step."""

from __future__ import annotations

import math

import torch
from torch import nn

from twotower.core.errors import InputError
from twotower.ops.exchange import Place
from twotower.towers.sparse_table import SparseTable
from twotower.training.config import Training
from twotower.training.row_adagrad import RowAdagrad
from twotower.training.with_rows import WithRows


def build_optimizer(model: nn.Module, config: Training) -> torch.optim.Optimizer:
    """Build the optimiser of a run, in its fused form, with row-wise Adagrad for sparse and host tables.

    The rows of a sharded table are stepped by who made it.

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
    options = {"lr": config.learning_rate, "weight_decay": config.weight_decay, "fused": fused}
    weights = kinds[config.optimizer](parameters, **options)  # type: ignore[arg-type]
    tables = {name: part for name, part in model.named_modules() if isinstance(part, SparseTable)}
    if not tables:
        return weights
    if Place.current().size > 1:
        raise InputError(
            "sparse and host tables are trained by one process: start it without torchrun, or set model.table = 'dense'"
        )
    for key in ("clip_norm", "weight_decay"):
        if getattr(config, key):
            raise InputError(
                f"training.{key} reaches weights alone, and the rows of sparse and host tables are none: set it to 0, "
                "or model.table = 'dense'"
            )
    rate = config.row_rate or config.learning_rate
    rows = {name: RowAdagrad(table, rate=rate, state=config.row_state) for name, table in tables.items()}
    return WithRows(weights, rows, ratio=rate / config.learning_rate if config.learning_rate else 1.0)


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
