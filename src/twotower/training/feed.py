"""Batches cut ahead of the step by a thread, so that a GPU waits neither for the cutting nor for the copies."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from twotower.core.records import Batch

AHEAD = 3
"""Batches that wait to be asked for, where data stay in host memory."""


def fed(
    cut: Callable[[Tensor], Batch], batches: Iterable[Tensor], device: torch.device, *, ahead: int
) -> Iterator[Batch]:
    """Yield the batch of each set of rows, in order; a thread cuts up to ``ahead`` of them before they are asked for.

    On a GPU the thread copies on a stream of its own, beside the step that is running. Nothing is drawn in the thread,
    so the batches are those of ``map(cut, batches)`` to the bit.

    Args:
        cut: from rows to a batch on ``device``.
        batches: rows of each batch.
        device: of the steps.
        ahead: how many batches wait at most; 0: no thread, each batch is cut when it is asked for.
    """
    if not ahead:
        yield from map(cut, batches)
        return
    side = torch.cuda.Stream(device) if device.type == "cuda" else None
    ready: queue.Queue[_Handed] = queue.Queue(ahead)
    stop = threading.Event()

    def hand(one: _Handed) -> bool:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(one, timeout=0.1)
                return True
        return False

    def work() -> None:
        try:
            with contextlib.nullcontext() if side is None else torch.cuda.stream(side):
                for rows in batches:
                    batch = cut(rows)
                    if not hand(_Handed(batch, None if side is None else side.record_event())):
                        return
            hand(_Handed())
        except BaseException as error:  # raised again where the batch is asked for
            hand(_Handed(error=error))

    thread = threading.Thread(target=work, name="feed", daemon=True)
    thread.start()
    try:
        while (one := ready.get()).batch is not None:
            if one.copied is not None:
                one.copied.wait()  # the step's stream waits, the host does not
                here = torch.cuda.current_stream(device)
                for tensor in tensors_of(one.batch):
                    tensor.record_stream(here)
            yield one.batch
        if one.error is not None:
            raise one.error
    finally:
        stop.set()
        thread.join()


class _Handed:
    """One batch and when it has been copied; without one: the end, or what went wrong."""

    def __init__(
        self, batch: Batch | None = None, copied: torch.cuda.Event | None = None, error: BaseException | None = None
    ) -> None:
        self.batch, self.copied, self.error = batch, copied, error


def tensors_of(batch: Batch) -> list[Tensor]:
    """Return every tensor of a batch, in an order that batches of one kind share."""
    users, items = batch.users, batch.items
    parts = [users.ids, users.history, users.history_times, items.ids, batch.labels, batch.pairs]
    for features in (users.features, items.features or {}):
        parts += [features[name] for name in sorted(features)]
    return [part for part in parts if part is not None]
