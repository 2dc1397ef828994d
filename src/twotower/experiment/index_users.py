"""Users that an index is shown: drawn from those with events, encoded at the end of their history."""

from __future__ import annotations

import torch
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import State, Users
from twotower.core.seeds import torch_generator
from twotower.core.states import join
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.index.abilities import ReadsEvents, ReadsUsers
from twotower.index.base import AnyIndex
from twotower.models.base import Model
from twotower.models.encode import inference, users_with_history

TILE = 256


def show_users(index: AnyIndex, model: Model, dataset: Dataset, history: Log, *, seed: int = 0) -> None:
    """Let an index that `ReadsUsers` read some of those with events, and one that `ReadsEvents` how many items have.

    There is nothing to do for any other.

    Args:
        index: still to be built.
        model: encodes them.
        dataset: their features.
        history: their positives.
        seed: of the draw.

    Raises:
        InputError: if no user has an event.
    """
    if isinstance(index, ReadsEvents):
        index.read_events(history.items.bincount(minlength=dataset.schema.num_items))
    if not isinstance(index, ReadsUsers) or not index.users_wanted:
        return
    users = drawn_users(history, index.users_wanted, seed=seed, purpose="users of an index")
    if not len(users):
        raise InputError(f"{type(index).__name__} makes its lists of users, but there is no user with an event")
    index.read_users(user_states(model, dataset, history, users))


def drawn_users(history: Log, number: int, *, seed: int, purpose: str) -> Tensor:
    """Draw at most ``number`` of the users that have an event."""
    active = history.lengths.nonzero()[:, 0]
    order = torch.randperm(len(active), generator=torch_generator(seed, purpose))[:number]
    return active[order.to(active.device)]


def user_states(model: Model, dataset: Dataset, history: Log, ids: Tensor) -> State:
    """Return the states of users at the end of their history, all as wide as the longest where states are histories."""
    users = users_with_history(dataset, history, ids, model.history_length)
    with inference(model):
        return join([model.encode_users(_some(users, slice(at, at + TILE))) for at in range(0, len(ids), TILE)])


def _some(users: Users, part: slice) -> Users:
    times = None if users.history_times is None else users.history_times[part]
    features = {name: column[part] for name, column in users.features.items()}
    return Users(users.ids[part], features, users.history[part], times)
