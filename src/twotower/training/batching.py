"""Batching: the order in which an epoch visits its rows, and which rows share a batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.seeds import torch_generator
from twotower.data.dataset import Dataset
from twotower.data.examples import EventRows, Rows
from twotower.data.log import Log
from twotower.models.base import Model
from twotower.models.encode import inference, training_length, users_with_history
from twotower.training.clustered import ClusteredBatches, ClusterSchedule


@runtime_checkable
class Batching(Protocol):
    """Cut the rows of each epoch into batches.

    The same epoch gives the same batches every time, also after a resume.
    """

    def batches(self, epoch: int, model: Model) -> Iterable[Tensor]:
        """Give the rows of each batch of ``epoch``, counted from 0: int64, on the CPU."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state that a resumed run needs beside the seed."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` gave."""
        ...


def random_batches(num_rows: int, batch_size: int, *, seed: int, epoch: int, pinned: bool = False) -> Iterator[Tensor]:
    """Give the batches of a random partition of the rows, the same for the same seed and epoch, whatever came before.

    Args:
        num_rows: rows to visit.
        batch_size: rows a batch; the last one may hold fewer.
        seed: of the run.
        epoch: counted from 0.
        pinned: whether rows lie in page-locked memory, so that a GPU copies them without the host waiting.
    """
    order = torch.randperm(num_rows, generator=torch_generator(seed, "order", epoch))
    order = order.pin_memory() if pinned else order
    for start in range(0, num_rows, batch_size):
        yield order[start : start + batch_size]


class RandomBatches:
    """Cut every epoch by `random_batches`."""

    def __init__(self, num_rows: int, batch_size: int, *, seed: int, pinned: bool = False) -> None:
        self.num_rows, self.batch_size, self.seed, self.pinned = num_rows, batch_size, seed, pinned

    def batches(self, epoch: int, model: Model) -> Iterator[Tensor]:
        """Give a random partition, batch by batch."""
        return random_batches(self.num_rows, self.batch_size, seed=self.seed, epoch=epoch, pinned=self.pinned)

    def state_dict(self) -> dict[str, Tensor]:
        """Return nothing: seed and epoch give the order."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore nothing."""


class ClusteredUsers:
    """Cut epochs into clustered batches: users whose vectors are near each other share a batch.

    A user's vector is that of all its training events, encoded by the model as it is when clusters are due.

    Args:
        rows: training rows.
        dataset: features of users.
        log: training events, the users' histories.
        batch_size: rows a batch.
        schedule: cluster sizes.
        seed: of the run.
        tile: users encoded at a time.

    Raises:
        InputError: as `ClusteredBatches` does.
    """

    def __init__(
        self,
        rows: Rows,
        dataset: Dataset,
        log: Log,
        *,
        batch_size: int,
        schedule: ClusterSchedule,
        seed: int,
        tile: int = 4096,
    ) -> None:
        self.dataset, self.history, self.tile = dataset, log.positives(), tile
        self.inner = ClusteredBatches(len(rows), batch_size, schedule, seed=seed, row_points=users_of(rows))

    def batches(self, epoch: int, model: Model) -> list[Tensor]:
        """Return batches of whole clusters; the model encodes users whenever they are clustered again."""
        return self.inner.batches(epoch, lambda users: self._vectors(model, users))

    def _vectors(self, model: Model, users: Tensor) -> Tensor:
        length = training_length(model)
        with inference(model):
            parts = [
                model.encode_users(users_with_history(self.dataset, self.history, part, length))
                for part in users.split(self.tile)
            ]
        return torch.cat(parts)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the clusters in use."""
        return self.inner.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the clusters."""
        self.inner.load_state_dict(state)


def users_of(rows: Rows) -> Tensor:
    """Return the user of each training row: int64 [rows].

    Raises:
        InputError: if the rows are of a kind that does not tell.
    """
    users = rows.event_users if isinstance(rows, EventRows) else getattr(rows, "rows", None)
    if not isinstance(users, Tensor):
        raise InputError(f"clustered batches: {type(rows).__name__} do not tell the user of a row")
    return users
