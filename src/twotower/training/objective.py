"""How one batch becomes a scalar: which items stand against the positives, and which loss they meet in."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from twotower.core.records import Batch
from twotower.data.dataset import Dataset
from twotower.losses.full_softmax import full_softmax
from twotower.models.base import Model


class Loss(Protocol):
    """One batch to a scalar, in nats a row."""

    def __call__(self, model: Model, batch: Batch) -> Tensor:
        """The loss, with its graph."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs of its samplers."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        ...


class FullSoftmax:
    """Cross-entropy against every item, in chunks, plus the model's own losses."""

    def __init__(self, dataset: Dataset) -> None:
        self.items = dataset.all_items()

    def __call__(self, model: Model, batch: Batch) -> Tensor:
        """Encode the whole catalogue once a step."""
        encoded = model(batch)
        table = model.encode_items(self.items)
        loss = full_softmax(encoded.users, table, encoded.item_ids, model.logit_scale())
        return loss + sum(encoded.losses.values(), start=torch.zeros((), device=loss.device))

    def state_dict(self) -> dict[str, Any]:
        """Nothing: it draws nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to take."""
