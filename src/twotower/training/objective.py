"""How one batch becomes a scalar: which items stand against the positives, and which loss they meet in."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from twotower.core import states
from twotower.core.records import Batch, Encoded, Negatives, State
from twotower.data.dataset import Dataset
from twotower.losses.base import Loss
from twotower.losses.full_softmax import full_softmax
from twotower.losses.pointwise import binary_cross_entropy
from twotower.models.base import Model
from twotower.ops.membership import Positives
from twotower.sampling.base import Sampler


@runtime_checkable
class Objective(Protocol):
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


class _Stateless:
    def state_dict(self) -> dict[str, Any]:
        """Nothing: it draws nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to take."""


class AgainstAll(_Stateless):
    """Full softmax: every item is a negative of every row. The whole catalogue is encoded once a step."""

    def __init__(self, dataset: Dataset) -> None:
        self.items = dataset.all_items()

    def __call__(self, model: Model, batch: Batch) -> Tensor:
        """Mean over rows."""
        encoded = model(batch)
        table = model.encode_items(self.items)
        return full_softmax(encoded.users, table, encoded.item_ids, model.logit_scale()) + own_losses(encoded)


class AgainstSamples:
    """A loss of each row's positive against candidates that a sampler draws.

    The row's own item and every known positive of its user are masked among the candidates.

    Args:
        dataset: where the features of drawn items are looked up.
        sampler: the source of candidates, or a sum of sources.
        loss: of positive scores, candidate scores, log q and mask.
        positives: the users' known positives in the training log.
    """

    def __init__(self, dataset: Dataset, sampler: Sampler, loss: Loss, positives: Positives) -> None:
        self.dataset, self.sampler, self.loss, self.positives = dataset, sampler, loss, positives

    def __call__(self, model: Model, batch: Batch) -> Tensor:
        """Mean over rows."""
        encoded = model(batch)
        negatives = self.sampler.sample(batch)
        candidates = self._states(model, encoded, negatives)
        scale = model.logit_scale()
        positive = model.score_rows(encoded.users, encoded.items) * scale
        if negatives.ids.ndim == 1:
            scores = model.score(encoded.users, candidates) * scale
        else:
            scores = model.score_rows(encoded.users, by_row(candidates, negatives.ids.shape)) * scale
        loss = self.loss(positive, scores, negatives.log_q, self._mask(batch, encoded, negatives))
        observe = getattr(self.sampler, "observe", None)
        if observe is not None:
            observe(encoded)
        return loss + own_losses(encoded)

    def _states(self, model: Model, encoded: Encoded, negatives: Negatives) -> State:
        """States of all candidates: the batch's own, those the step encodes, those the sampler kept."""
        ids = negatives.ids.flatten()
        kept = 0 if negatives.states is None else states.rows(negatives.states)
        parts = []
        if negatives.in_batch:
            parts.append(states.take(encoded.items, slice(negatives.in_batch)))
        drawn = ids[negatives.in_batch : len(ids) - kept]
        if len(drawn):
            distinct, place = drawn.unique(return_inverse=True)
            parts.append(states.take(model.encode_items(self.dataset.items(distinct)), place))
        if negatives.states is not None:
            parts.append(negatives.states)
        return parts[0] if len(parts) == 1 else states.join(parts)

    def _mask(self, batch: Batch, encoded: Encoded, negatives: Negatives) -> Tensor:
        users = batch.users.ids if encoded.user_rows is None else batch.users.ids[encoded.user_rows]
        own = negatives.ids == encoded.item_ids[:, None]
        return ~(own | self.positives.contains(users, negatives.ids))

    def state_dict(self) -> dict[str, Any]:
        """The sampler's state, where it has one."""
        get = getattr(self.sampler, "state_dict", None)
        return {} if get is None else get()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the sampler's state back."""
        if state:
            self.sampler.load_state_dict(state)  # type: ignore[attr-defined]


class AgainstLabels(_Stateless):
    """Binary cross-entropy of the rows' own labels."""

    def __call__(self, model: Model, batch: Batch) -> Tensor:
        """Mean over rows."""
        assert batch.labels is not None
        encoded = model(batch)
        scores = model.score_rows(encoded.users, encoded.items) * model.logit_scale()
        return binary_cross_entropy(scores, batch.labels) + own_losses(encoded)


def own_losses(encoded: Encoded) -> Tensor | float:
    """The sum of the losses that the model brings itself."""
    return sum(encoded.losses.values()) if encoded.losses else 0.0


def by_row(candidates: State, shape: torch.Size) -> State:
    """States of flattened candidates as [rows, candidates, …]."""
    return states.map_state(lambda part: part.view(*shape, *part.shape[1:]), candidates)
