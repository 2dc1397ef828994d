"""A training step captured as one CUDA graph: where steps are small, launching their kernels is most of their time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from twotower.core.errors import InputError, cut
from twotower.core.records import Batch, Items, Users
from twotower.models.base import Model, Phased
from twotower.ops.cuda_graph import recorded
from twotower.towers.row_table import RowTable
from twotower.training.config import Training
from twotower.training.feed import tensors_of
from twotower.training.objective import Objective, Replayable

log = logging.getLogger(__name__)

WARM_UPS = 3
"""Steps that are taken one kernel at a time before the next is captured: what is made once is made then."""
LARGEST = 0.25
"""Share of a device's memory beyond which a step counts as large: it gains little, and keeps twice what it works on."""
OPTIMIZERS = ("adam", "adamw")
"""Optimisers whose update can be captured."""

Record = Callable[[Callable[[], Tensor], Sequence[torch.Generator]], tuple[Callable[[], None], Tensor]]
"""From work and the generators it draws from to how it is done again, and the tensor that then holds its result."""


class CapturedStep:
    """Take training steps by replaying one that was captured.

    Full batches have one shape: the first `WARM_UPS` of them are trained on as ever, the next is captured, and from
    then on a step is a copy of its input and one launch. A batch of another shape (the last of an epoch) is trained on
    as ever. Weights, moments and generators are read and written where they lie, so that steps of both kinds may
    follow each other in any order, and the steps are those of ``work`` up to the rounding of the kernels.

    Args:
        work: one step, from the rows of a batch, or a batch, to its loss.
        rows: of a full batch.
        device: of the steps.
        generators: that ``work`` draws from, beside the device's own.
        at_will: whether to go on step by step where a captured one would need too much memory (it keeps what it works
            on: no capture once more than a quarter of the device is taken) or cannot be captured.
        record: how work is captured; `on_cuda`.
    """

    def __init__(
        self,
        work: Callable[[Tensor | Batch], Tensor],
        rows: int,
        device: torch.device,
        generators: Sequence[torch.Generator] = (),
        *,
        at_will: bool = False,
        record: Record | None = None,
    ) -> None:
        self.work, self.rows, self.device = work, rows, device
        self.generators, self.record = generators, record or on_cuda
        self.at_will, self.given_up = at_will, False
        self.done, self.replays = 0, 0
        self.given: Tensor | Batch | None = None
        self.again: Callable[[], None] | None = None

    def __call__(self, given: Tensor | Batch) -> Tensor:
        """Return the loss, detached, once the weights have moved; the next call may overwrite it."""
        full = len(given if isinstance(given, Tensor) else given.users.ids) == self.rows
        if not full or self.given_up:
            return self.work(given)
        if self.again is None and self.done < WARM_UPS:
            self.done += 1
            return beside(lambda: self.work(given), self.device)
        if self.again is None and not self._capture(given):
            return self.work(given)
        if not self._take(given):
            return self.work(given)
        assert self.again is not None
        self.again()
        self.replays += 1
        return self.loss

    def _capture(self, given: Tensor | Batch) -> bool:
        """Capture one step, unless it may be left and there is a reason to."""
        if self.at_will and taken_share(self.device) > LARGEST:
            self.given_up = True
            return False
        held = copied(given, self.device)
        try:
            self.again, self.loss = self.record(lambda: self.work(held), self.generators)
        except InputError as error:
            if not self.at_will:
                raise
            log.info("steps are taken one by one: %s", str(error))  # a kept record must not keep the step's graph
            self.given_up = True
            return False
        self.given = held
        return True

    def _take(self, given: Tensor | Batch) -> bool:
        """Copy into the captured step's input, where shapes allow it."""
        assert self.given is not None
        old, new = _parts(self.given), _parts(given)
        if [part.shape for part in old] != [part.shape for part in new]:
            return False
        for into, part in zip(old, new, strict=True):
            into.copy_(part, non_blocking=True)
        return True


def on_cuda(work: Callable[[], Tensor], generators: Sequence[torch.Generator]) -> tuple[Callable[[], None], Tensor]:
    """Record work as a CUDA graph, without doing it.

    Raises:
        InputError: if it waits for the device, or does something else that cannot be captured; the next step may be
            taken as ever.
    """
    try:
        return recorded(work, generators, errors="thread_local")  # another thread may cut batches meanwhile
    except RuntimeError as error:
        why = cut(str(error).splitlines()[0], 160)
        raise InputError(
            f"training.capture: this step cannot be captured ({why}); set training.capture = 'off'"
        ) from None


def taken_share(device: torch.device) -> float:
    """Return the largest share of a GPU's memory that was taken so far; 0 for a CPU."""
    if device.type != "cuda":
        return 0.0
    return torch.cuda.max_memory_allocated(device) / torch.cuda.get_device_properties(device).total_memory


def beside(work: Callable[[], Tensor], device: torch.device) -> Tensor:
    """Do work on a stream of its own, as it must be warmed up before it is captured; on a CPU just do it."""
    if device.type != "cuda":
        return work()
    here, stream = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    stream.wait_stream(here)
    with torch.cuda.stream(stream):
        result = work()
    here.wait_stream(stream)
    result.record_stream(here)
    return result


def copied(given: Tensor | Batch, device: torch.device) -> Tensor | Batch:
    """Return tensors of their own on the device, with the same numbers."""

    def own(part: Tensor) -> Tensor:
        return torch.empty_like(part, device=device).copy_(part)

    def maybe(part: Tensor | None) -> Tensor | None:
        return None if part is None else own(part)

    if isinstance(given, Tensor):
        return own(given)
    users, items = given.users, given.items
    columns = None if items.features is None else {name: own(value) for name, value in items.features.items()}
    return Batch(
        Users(
            own(users.ids),
            {name: own(value) for name, value in users.features.items()},
            own(users.history),
            maybe(users.history_times),
        ),
        Items(own(items.ids), columns),
        maybe(given.labels),
        maybe(given.pairs),
    )


def why_not_captured(model: Model, objective: Objective, config: Training) -> str:
    """Return why steps of such a run cannot be captured, in a few words; "" where they can."""
    if model.batches != "events" or model.draws_rows:
        return f"{type(model).__name__} learns from windows, whose batches differ in shape"
    if isinstance(model, Phased):
        return f"{type(model).__name__} changes in the course of training"
    if any(isinstance(part, RowTable) for part in model.modules()):
        return "rows of sparse, host and TorchRec tables are stepped one batch at a time"
    if config.optimizer not in OPTIMIZERS:
        return f"training.optimizer = '{config.optimizer}' cannot be captured; take adam or adamw"
    if not isinstance(objective, Replayable):
        return f"{type(objective).__name__} does other work at each step"
    return objective.why_not_replayed(config.batch_size)


def _parts(given: Tensor | Batch) -> list[Tensor]:
    return [given] if isinstance(given, Tensor) else tensors_of(given)
