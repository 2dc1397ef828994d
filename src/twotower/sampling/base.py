"""The sampler protocol, and what samplers share: whose rows, which items, how likely."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from twotower.core.records import PADDING, Batch, Encoded, Negatives


@runtime_checkable
class Sampler(Protocol):
    """A source of negatives.

    ``log_q`` of a candidate is the log of its expected count: how often the item stands among the candidates on
    average, which is draws × probability of a draw, and 1 (log 0) for an item that is there by rule. A sum over
    candidates of f(item) / e^{log_q} is then an unbiased estimate of the sum over items, whatever the source.
    """

    def sample(self, batch: Batch) -> Negatives:
        """Candidates for the rows of ``batch``, with the log of their expected counts."""
        ...


@runtime_checkable
class Observer(Protocol):
    """A sampler that learns from each training step."""

    def observe(self, encoded: Encoded) -> None:
        """Take in what the step has just encoded; called once after each optimiser step."""
        ...


@runtime_checkable
class Stateful(Protocol):
    """A sampler that must be stored for an exact resume; its state is tensors alone."""

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that changes while training."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state_dict` gave."""
        ...


@runtime_checkable
class Frequency(Protocol):
    """How likely one draw from the training log is to be a given item."""

    def observe(self, ids: Tensor) -> None:
        """See the items of one batch: int64 [rows]."""
        ...

    def log_q(self, ids: Tensor) -> Tensor:
        """Log of the probability of one draw for each of ``ids``."""
        ...


def batch_items(batch: Batch) -> Tensor:
    """The paired items of a batch, one a row: for causal towers, one for each position that has a next item."""
    ids = batch.items.ids
    return ids if ids.ndim == 1 else ids[ids != PADDING]


def batch_users(batch: Batch) -> Tensor:
    """The user row of each of `batch_items`."""
    ids = batch.items.ids
    return batch.users.ids if ids.ndim == 1 else batch.users.ids[:, None].expand_as(ids)[ids != PADDING]


def joined_state(samplers: Sequence[Sampler]) -> dict[str, Tensor]:
    """The states of several samplers in one, by their place."""
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
