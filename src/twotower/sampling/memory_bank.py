"""Cross-batch negative sampling (CBNS): item states of past batches, kept in a ring."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from twotower.core import states
from twotower.core.errors import InputError
from twotower.core.records import Batch, Encoded, Negatives, State
from twotower.sampling.base import Frequency
from twotower.sampling.drift import EmbeddingDrift

CHECK_EVERY = 128
"""Steps between looks for NaN on a GPU, where each look waits for the device."""


class MemoryBank:
    """Keep the newest ``capacity`` item states, first in first out, with ids and log q: no encoding, no gradient.

    The batches' items are draws from the training log, so log q = log(filled) + log p(item), with p as it was when
    the item came in. Samplers give ids, not states; this one is the exception. It fills from the first step, and gives
    candidates once it has started. The ids let the step mask known positives that sit in the bank.

    Source: Wang et al., SIGIR 2021 (CBNS); section 3.3 of the negative-sampling report. Difference: ids are kept,
    positives are masked, and drift is a mean over a sample of items, not a sum over the catalogue.

    Args:
        capacity: states kept; at least ``batch_size``.
        batch_size: rows that one step may bring.
        count: rows of a step that are kept, the first ones, such as those that in-batch takes; None: all.
        frequency: p above. The bank only reads it: a streaming one is fed by the in-batch source beside the bank.
        start: steps before it gives candidates, or the drift that must fall first.
        state_kind: NamedTuple of the item states, None for tensors; loading a stored bank needs it.

    Raises:
        InputError: if the bank is smaller than a batch, or ``start`` is negative.
    """

    def __init__(
        self,
        capacity: int,
        batch_size: int,
        frequency: Frequency,
        *,
        count: int | None = None,
        start: int | EmbeddingDrift = 0,
        state_kind: type[Any] | None = None,
    ) -> None:
        brought = min(count or batch_size, batch_size)
        if capacity < brought:
            raise InputError(
                f"memory bank: {capacity} places are fewer than the {brought} rows of a batch; "
                "make the bank at least as large as a batch"
            )
        if isinstance(start, int) and start < 0:
            raise InputError(f"memory bank: it cannot start after {start} steps")
        self.capacity = capacity
        self.count = count
        self.frequency = frequency
        self.start = start
        self.state_kind = state_kind
        self.step = 0
        self.filled = 0
        self._next = 0
        self._ids = torch.empty(0, dtype=torch.int64)
        self._log_p = torch.empty(0)
        self._states: State | None = None

    @property
    def started(self) -> bool:
        """Return whether it gives candidates."""
        return self.step >= self.start if isinstance(self.start, int) else self.start.is_low

    def sample(self, batch: Batch) -> Negatives:
        """Return all that the bank holds, in the order of its places; nothing before it has started.

        The states are the bank's own and change with the next `observe`.
        """
        if self._states is None or not self.started:
            ids = batch.items.ids.new_empty(0)
            return Negatives(ids, torch.empty(0, device=ids.device))
        held = slice(self.filled)
        log_q = self._log_p[held] + math.log(self.filled)
        return Negatives(self._ids[held].clone(), log_q, states.take(self._states, held))

    def observe(self, encoded: Encoded) -> None:
        """Put the batch's items in, over the oldest. A step that used the bank's states must have copied them.

        Raises:
            InputError: if the step brings more rows than there are places, no item states, or NaN.
        """
        ids = encoded.item_ids[: self.count]
        if encoded.items is None:
            raise InputError("memory bank: the step encodes no items of its batch, so there is nothing to keep")
        if len(ids) > self.capacity:
            raise InputError(f"memory bank: {len(ids)} rows of a batch do not fit into {self.capacity} places")
        fresh = states.detach(states.take(encoded.items, slice(self.count)))
        if ids.device.type == "cpu" or self.step % CHECK_EVERY == 0:
            states.map_state(_refuse_nan, fresh)
        if self._states is None:
            self._allocate(fresh, ids.device)
        self._write(ids, fresh)
        self.step += 1
        if isinstance(self.start, EmbeddingDrift):
            self.start.observe()

    def _allocate(self, like: State, device: torch.device) -> None:
        self._ids = torch.zeros(self.capacity, dtype=torch.int64, device=device)
        self._log_p = torch.zeros(self.capacity, device=device)
        self._states = states.map_state(lambda part: part.new_zeros(self.capacity, *part.shape[1:]), like)

    def _write(self, ids: Tensor, fresh: State) -> None:
        log_p = self.frequency.log_q(ids)
        before_wrap = min(len(ids), self.capacity - self._next)
        for source, target in (
            (slice(before_wrap), slice(self._next, self._next + before_wrap)),
            (slice(before_wrap, None), slice(len(ids) - before_wrap)),
        ):
            self._ids[target] = ids[source]
            self._log_p[target] = log_p[source]
            held, new = states.to_tensors(self._states), states.to_tensors(fresh)
            for name in held:
                held[name][target] = new[name][source]
        self._next = (self._next + len(ids)) % self.capacity
        self.filled = min(self.filled + len(ids), self.capacity)

    def state_dict(self) -> dict[str, Tensor]:
        """Return ring, its place and the steps done."""
        kept = {"place": torch.tensor([self.step, self.filled, self._next])}
        if self._states is not None:
            kept |= {"ids": self._ids.clone(), "log_p": self._log_p.clone()}
            kept |= {f"states.{name}": part.clone() for name, part in states.to_tensors(self._states).items()}
        if isinstance(self.start, EmbeddingDrift):
            kept |= {f"drift.{name}": part for name, part in self.start.state_dict().items()}
        return kept

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the bank as it was.

        Raises:
            InputError: if the stored bank has another capacity.
        """
        self.step, self.filled, self._next = state["place"].tolist()
        if "ids" in state:
            if len(state["ids"]) != self.capacity:
                raise InputError(f"memory bank: stored with {len(state['ids'])} places, this run has {self.capacity}")
            self._ids, self._log_p = state["ids"].clone(), state["log_p"].clone()
            self._states = states.from_tensors(
                {name.removeprefix("states."): part.clone() for name, part in state.items() if "states." in name},
                self.state_kind,
            )
        if isinstance(self.start, EmbeddingDrift):
            self.start.load_state_dict(
                {name.removeprefix("drift."): part for name, part in state.items() if name.startswith("drift.")}
            )


def _refuse_nan(part: Tensor) -> Tensor:
    if not part.isfinite().all():
        bad = int((~part.isfinite()).flatten(1).any(1).sum())
        raise InputError(f"memory bank: {bad} of {len(part)} item states hold NaN or inf; lower the learning rate")
    return part
