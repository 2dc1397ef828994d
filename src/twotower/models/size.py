"""Memory of a model, estimated before it is allocated."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from twotower.core.errors import InputError, shown
from twotower.core.schema import Schema
from twotower.models.base import ClosedForm, Model
from twotower.ops.memory import available_memory

COPIES = {"sgd": 2, "adagrad": 3}
"""Numbers that training holds for each weight, by optimiser: itself, its gradient, its moments."""
MOST_COPIES = 4
LARGE = 1 << 29
"""Bytes from which on a model's size is counted before it is built on."""
BYTES_OF_PLACE = 16
"""That one place of a history takes in a batch, at least: its item's id, and where it is read."""
_SHAPED = {"empty", "zeros", "ones", "rand", "randn", "full"}


def build_within_memory(cls: type[Model], name: str, schema: Schema, parameters: dict[str, Any]) -> Model:
    """Build a model; once it asks for `LARGE` bytes its whole size is counted, on the device "meta", without memory.

    Raises:
        InputError: if it needs more memory than is free: with what is needed and what is there.
    """
    with _Watch(cls, name, schema, parameters):
        return cls(schema, **parameters)


class _Watch(TorchFunctionMode):
    """Sees every new tensor before it is made. A count of each model would be simpler, but torch loads much for it."""

    def __init__(self, cls: type[Model], name: str, schema: Schema, parameters: dict[str, Any]) -> None:
        super().__init__()
        self.cls, self.name, self.schema, self.parameters = cls, name, schema, parameters
        self.asked, self.counted = 0, False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if not self.counted and getattr(func, "__name__", "") in _SHAPED:
            self.asked += _asked(func.__name__, args, given)
            if self.asked >= LARGE:
                self.counted = True
                self._count()
        return func(*args, **given)

    def _count(self) -> None:
        numbers, needed = self.asked // 4, self.asked
        try:
            with torch.random.fork_rng([]), torch.device("meta"):
                numbers, needed = size_of(self.cls(self.schema, **self.parameters))
        except InputError:  # a model that holds this one is too large, or this one is refused by its own rule
            raise
        except Exception:  # no model that can be built so: then what it has asked for counts
            needed = max(needed, self.asked)
        free = available_memory()
        if needed > free:
            told = f"has {numbers:,} numbers, which take {_gb(needed)}"
            raise _too_large(self.name, self.parameters, told, free)


def _asked(name: str, args: Any, given: dict[str, Any]) -> int:
    """The bytes that a new tensor will take."""
    first = given.get("size", args[0] if args else ())
    size = first if isinstance(first, tuple | list) else [part for part in args if isinstance(part, int)]
    dtype = given.get("dtype") or torch.get_default_dtype()
    return (
        math.prod(int(part) for part in (size[:1] if name == "full" and size is not first else size)) * dtype.itemsize
    )


def size_of(model: Model) -> tuple[int, int]:
    """Count the numbers of a model, weights and buffers, and their bytes."""
    parts = [*model.parameters(), *model.buffers()]
    return sum(part.numel() for part in parts), sum(part.numel() * part.element_size() for part in parts)


def check_training_size(model: Model, name: str, parameters: dict[str, Any], optimizer: str) -> None:
    """Refuse to train a model where gradients and moments need more memory than is free on its device.

    Raises:
        InputError: with what is needed and what is there.
    """
    if isinstance(model, ClosedForm):
        return
    trained = [part for part in model.parameters() if part.requires_grad]
    copies = COPIES.get(optimizer, MOST_COPIES) - 1  # the weights themselves are there
    for device in dict.fromkeys(part.device for part in trained):
        parts = [part for part in trained if part.device == device]
        needed, free = copies * sum(part.numel() * part.element_size() for part in parts), _free_on(device)
        if needed > free:
            count = sum(part.numel() for part in parts)
            told = f"trains {count:,} numbers, whose gradients and moments ({optimizer}) take {_gb(needed)}"
            raise _too_large(name, parameters, told, free, "" if device.type == "cpu" else f" on '{device}'")


def _free_on(device: torch.device) -> float:
    """Bytes that can still be taken on a device, what PyTorch holds there and does not use among them."""
    if device.type == "cpu":
        return float(available_memory())
    if device.type != "cuda":
        return float("inf")
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return float(torch.cuda.mem_get_info(device)[0] + held)


def check_batch_size(rows: int, length: int, name: str) -> None:
    """Refuse batches of histories whose ids alone need more memory than is free.

    Args:
        rows: of a batch.
        length: of a history.
        name: of the model.

    Raises:
        InputError: with what is needed and what is there.
    """
    needed, free = BYTES_OF_PLACE * rows * length, available_memory()
    if needed > free:
        raise InputError(
            f"model '{name}': a batch of {rows:,} histories of {length:,} items takes {_gb(needed)} and more, and "
            f"{_gb(free)} of memory are free; lower model.history_length or training.batch_size"
        )


def check_scores_size(rows: int, candidates: int, name: str, device: torch.device, *, width: int = 4) -> None:
    """Refuse steps whose scores, of each row with each candidate, and their gradients need more memory than is free.

    Args:
        rows: whose losses a step computes on this device.
        candidates: of each row.
        name: of the model.
        device: of the steps.
        width: bytes of a score.

    Raises:
        InputError: with what is needed and what is there.
    """
    needed, free = 2 * width * rows * candidates, _free_on(device)
    if needed > free:
        where = "" if device.type == "cpu" else f" on '{device}'"
        raise InputError(
            f"model '{name}': the scores of {rows:,} rows with {candidates:,} items of their batch, and their "
            f"gradients, take {_gb(needed)}, and {_gb(free)} of memory are free{where}; lower training.batch_size, or "
            "set sampling.in_batch_number"
        )


def _too_large(name: str, parameters: dict[str, Any], told: str, free: int | float, where: str = "") -> InputError:
    numbers = [f"{key} = {shown(value, 40)}" for key, value in parameters.items() if not isinstance(value, bool | str)]
    given = f" with {', '.join(numbers)}"[:200] if numbers else ""
    return InputError(
        f"model '{name}'{given} {told}, and {_gb(free)} of memory are free{where}; lower its settings, or take a "
        "data set with fewer ids"
    )


def _gb(count: int | float) -> str:
    return f"{count / 1e9:,.1f} GB"
