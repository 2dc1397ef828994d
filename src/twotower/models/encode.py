"""Encoding outside training: users at the end of their history, items in tiles, and evaluation mode."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from twotower.core.records import State, Users
from twotower.core.states import join
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.models.base import Model

LONGEST = 200
"""Items of a history in training, for models that would read all of it."""
TILE = 8192
"""Items encoded at a time."""


@dataclass(frozen=True, eq=False)
class ItemStates:
    """Hold the states of every known item of a catalogue, with the items' rows."""

    ids: Int[Tensor, " items"]
    states: State


def training_length(model: Model) -> int:
    """Return how many items of a history a model reads in training, at most."""
    return LONGEST if model.history_length is None else model.history_length


@contextlib.contextmanager
def inference(model: Model) -> Iterator[None]:
    """Switch to evaluation mode without gradients; the model's own mode comes back afterwards."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)


def users_with_history(dataset: Dataset, history: Log, ids: Int[Tensor, " users"], length: int | None) -> Users:
    """Return users ``ids`` with their last ``length`` events of ``history`` (None: all), as wide as the longest."""
    at = ids.to(history.offsets.device)
    starts, ends = history.offsets[at], history.offsets[at + 1]
    longest = int((ends - starts).max()) if len(ids) else 0
    width = max(1, longest if length is None else min(length, longest))
    return dataset.users(ids, *history.windows(starts, ends, width))


def encode_items(model: Model, dataset: Dataset, ids: Int[Tensor, " items"], tile: int) -> State:
    """Return the states of items ``ids``, encoded ``tile`` at a time."""
    return join([model.encode_items(dataset.items(part)) for part in ids.split(tile)])


def encode_known_items(model: Model, dataset: Dataset, tile: int = TILE) -> ItemStates:
    """Encode every known item as it is served: in evaluation mode, without gradients."""
    ids = dataset.known_items()
    with inference(model):
        return ItemStates(ids, encode_items(model, dataset, ids, tile))
