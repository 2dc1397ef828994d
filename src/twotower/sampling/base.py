"""Sampler protocol, and what samplers share: rows, items, probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from twotower.core.records import PADDING, Batch, Encoded, Negatives


@runtime_checkable
class Sampler(Protocol):
    """Draw negatives for the rows of a batch.

    ``log_q`` of a candidate is the log of its expected count: how often the item stands among the candidates on
    average, which is draws × probability of a draw, and 1 (log 0) for an item that is there by rule. A sum over
    candidates of f(item) / e^{log_q} is then an unbiased estimate of the sum over items, whatever the source.
    """

    def sample(self, batch: Batch) -> Negatives:
        """Return candidates for the rows of ``batch``, with the log of their expected counts."""
        ...


@runtime_checkable
class Observer(Protocol):
    """Learn from each training step what to draw next."""

    def observe(self, encoded: Encoded) -> None:
        """Take in what the step has just encoded; called once a step, before the weights move."""
        ...


@runtime_checkable
class Stateful(Protocol):
    """Store and restore a sampler for an exact resume; its state is tensors alone."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that changes while training."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` gave."""
        ...


@runtime_checkable
class Replayed(Protocol):
    """Do the same work on the device at each call, so that a captured training step can replay it."""

    def replayed(self) -> list[torch.Generator] | None:
        """Return the generators that it draws from, which a captured step moves on; None: it cannot be replayed."""
        ...


@runtime_checkable
class Frequency(Protocol):
    """Estimate the probability that one draw from the training log is a given item."""

    def observe(self, ids: Tensor) -> None:
        """Count the items of one batch: int64 [rows]."""
        ...

    def log_q(self, ids: Tensor) -> Tensor:
        """Return the log of the probability of one draw for each of ``ids``."""
        ...


def batch_items(batch: Batch) -> Tensor:
    """Return the paired items of a batch, one a row; for causal towers, one a position that has a next item."""
    ids = batch.items.ids
    return ids if ids.ndim == 1 else ids[ids != PADDING]


def batch_users(batch: Batch) -> Tensor:
    """Return the user row of each of `batch_items`."""
    ids = batch.items.ids
    return batch.users.ids if ids.ndim == 1 else batch.users.ids[:, None].expand_as(ids)[ids != PADDING]


def joined_state(samplers: Sequence[Sampler]) -> dict[str, Tensor]:
    """Join the states of several samplers into one, by their place."""
    return {
        f"{place}.{name}": value
        for place, sampler in enumerate(samplers)
        if isinstance(sampler, Stateful)
        for name, value in sampler.state_dict().items()
    }


def split_state(samplers: Sequence[Sampler], state: dict[str, Tensor]) -> None:
    """Undo `joined_state`."""
    for place, sampler in enumerate(samplers):
        if isinstance(sampler, Stateful):
            start = f"{place}."
            sampler.load_state_dict({key.removeprefix(start): state[key] for key in state if key.startswith(start)})


def joined_generators(samplers: Sequence[object]) -> list[torch.Generator] | None:
    """Return the generators of several samplers; None where one of them cannot be replayed: see `Replayed`."""
    found = [one.replayed() if isinstance(one, Replayed) else None for one in samplers]
    return None if any(part is None for part in found) else [one for part in found for one in part or []]
