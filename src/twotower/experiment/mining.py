"""Search behind index-mined negatives: the current model, the run's index, known positives left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import TopK
from twotower.core.states import join
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.experiment.index_users import show_users
from twotower.index.base import AnyIndex
from twotower.models.base import Model
from twotower.models.encode import encode_items, inference, training_length, users_with_history
from twotower.ops.windows import windows


def miner(
    model: Model, dataset: Dataset, log: Log, index: Callable[[], AnyIndex], *, tile: int = 1024
) -> Callable[[Tensor, int], TopK]:
    """Build the search of `IndexMined`: users and k to their k best items, without their positives in ``log``.

    Only positives are left out, not all that a user has seen: an item that was rated badly may be a negative.

    Each call encodes all items with the model as it then is, builds the index, and encodes the users with all their
    training events.

    Args:
        model: serves inner products.
        dataset: features of users and items.
        log: training events.
        index: makes an empty index, exact or approximate.
        tile: users searched at a time.
    """
    history = log.positives()
    length = training_length(model)

    def search(users: Tensor, k: int) -> TopK:
        items = dataset.known_items()
        with inference(model):
            built = index()
            show_users(built, model, dataset, history)
            built.build(_finite("item", encode_items(model, dataset, items, 8 * tile)), items)
            return join([_tile(built, part, k) for part in users.split(tile)])

    def _tile(built: AnyIndex, users: Tensor, k: int) -> TopK:
        vectors = _finite("user", model.encode_users(users_with_history(dataset, history, users, length)))
        starts, ends = history.offsets[users], history.offsets[users + 1]
        known = windows(history.items, starts, ends, int((ends - starts).max()))
        return built.search(vectors, k, known.masked_fill_(known == 0, -1))

    return search


def _finite(side: str, vectors: Any) -> Any:
    if not vectors.isfinite().all():
        raise InputError(f"index-mined negatives: {side} vectors hold NaN or inf; lower training.learning_rate")
    return vectors
