"""Optimiser, and the learning rate of each step."""

from __future__ import annotations

import math

import torch
from torch import nn

from twotower.training.config import Training


def build_optimizer(model: nn.Module, config: Training) -> torch.optim.Optimizer:
    """Build the optimiser of a run, in its fused form."""
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
    return kinds[config.optimizer](parameters, **options)  # type: ignore[arg-type]


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
