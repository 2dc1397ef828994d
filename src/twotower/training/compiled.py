"""Encoders compiled by torch.compile for the steps of full batches, so that one shape is compiled and no more."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from twotower.core.errors import InputError
from twotower.models.base import Model


class CompiledParts:
    """Hold the compiled forms of a model's encoders, which take the place of the plain ones inside `used`.

    What is compiled: the methods that `Model.compiled_parts` names. Negatives, masks and the loss stay as they are:
    they have kernels of their own, and would cut the graph. Each call is compiled for the shapes that it sees. Full
    batches of one run share them; the last batch of an epoch, which may hold fewer rows, and evaluation take the plain
    encoders, and so nothing is compiled again.

    Args:
        model: to train.
        backend: of torch.compile.

    Raises:
        InputError: if the model names no part.
    """

    def __init__(self, model: Model, *, backend: str = "inductor") -> None:
        if not model.compiled_parts:
            raise InputError(
                f"training.compile: {type(model).__name__} has no part that is compiled; set training.compile = false"
            )
        self.model = model
        self.parts: dict[str, Callable[..., Any]] = {
            name: torch.compile(getattr(model, name), dynamic=False, backend=backend) for name in model.compiled_parts
        }

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Let the model encode by its compiled parts."""
        own = vars(self.model)
        own.update(self.parts, in_one_shape=True)
        try:
            yield
        finally:
            for name in (*self.parts, "in_one_shape"):
                del own[name]
