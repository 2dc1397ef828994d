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
from twotower.sampling.base import Observer, Sampler, Stateful
from twotower.training.regularise import Regulariser


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

    def __init__(self, dataset: Dataset, regulariser: Regulariser | None = None) -> None:
        self.items = dataset.all_items()
        self.regulariser = regulariser or Regulariser({})

    def __call__(self, model: Model, batch: Batch) -> Tensor:
        """Mean over rows."""
        encoded = model(batch)
        table = model.encode_items(self.items)
        loss = full_softmax(encoded.users, table, encoded.item_ids, model.logit_scale())
        return loss + own_losses(encoded) + self.regulariser(encoded, table)


class AgainstSamples:
    """A loss of each row's positive against candidates that a sampler draws.

    The row's own item and every known positive of its user are masked among the candidates.

    Args:
        dataset: where the features of drawn items are looked up.
        sampler: the source of candidates, or a sum of sources.
        loss: of positive scores, candidate scores, log q and mask.
        positives: the users' known positives in the training log.
        regulariser: terms of the batch's states alone; None: none.
    """

    def __init__(
        self,
        dataset: Dataset,
        sampler: Sampler,
        loss: Loss,
        positives: Positives,
        regulariser: Regulariser | None = None,
    ) -> None:
        self.dataset, self.sampler, self.loss, self.positives = dataset, sampler, loss, positives
        self.regulariser = regulariser or Regulariser({})

    def __call__(self, model: Model, batch: Batch) -> Tensor:
        """Mean over rows."""
        encoded = model(batch)
        negatives = self.sampler.sample(batch)
        blocks = [negatives] if negatives.per_row is None else [negatives, negatives.per_row]
        scores, log_q, mask = (
            torch.cat(parts, dim=1)
            for parts in zip(*(self._block(model, batch, encoded, block) for block in blocks), strict=True)
        )
        positive = model.score_rows(encoded.users, encoded.items) * model.logit_scale()
        loss = self.loss(positive, scores, log_q, mask)
        if isinstance(self.sampler, Observer):
            self.sampler.observe(encoded)
        return loss + own_losses(encoded) + self.regulariser(encoded)

    def _block(
        self, model: Model, batch: Batch, encoded: Encoded, negatives: Negatives
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Scores over the temperature, log q and mask of one block of candidates, each [rows, candidates]."""
        candidates = self._states(model, encoded, negatives)
        if negatives.ids.ndim == 1:
            scores = model.score(encoded.users, candidates)
        else:
            scores = model.score_rows(encoded.users, by_row(candidates, negatives.ids.shape))
        users = batch.users.ids if encoded.user_rows is None else batch.users.ids[encoded.user_rows]
        own = negatives.ids == encoded.item_ids[:, None]
        mask = ~(own | self.positives.contains(users, negatives.ids))
        if negatives.keep is not None:
            mask &= negatives.keep
        return scores * model.logit_scale(), negatives.log_q.expand_as(scores), mask

    def _states(self, model: Model, encoded: Encoded, negatives: Negatives) -> State:
        """States of all candidates: the batch's own, those the step encodes, those the sampler kept."""
        ids = negatives.ids.flatten()
        kept = 0 if negatives.states is None else states.rows(negatives.states)
        drawn = ids[negatives.in_batch : len(ids) - kept]
        parts = [states.take(encoded.items, slice(negatives.in_batch))]
        if len(drawn):
            distinct, place = drawn.unique(return_inverse=True)
            parts.append(states.take(model.encode_items(self.dataset.items(distinct)), place))
        if negatives.states is not None:
            parts.append(negatives.states)
        return states.join(parts)

    def state_dict(self) -> dict[str, Any]:
        """The sampler's state, where it has one."""
        return self.sampler.state_dict() if isinstance(self.sampler, Stateful) else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the sampler's state back."""
        if isinstance(self.sampler, Stateful):
            self.sampler.load_state_dict(state)


class AgainstLabels(_Stateless):
    """Binary cross-entropy of the rows' own labels."""

    def __init__(self, regulariser: Regulariser | None = None) -> None:
        self.regulariser = regulariser or Regulariser({})

    def __call__(self, model: Model, batch: Batch) -> Tensor:
        """Mean over rows."""
        assert batch.labels is not None
        encoded = model(batch)
        scores = model.score_rows(encoded.users, encoded.items) * model.logit_scale()
        return binary_cross_entropy(scores, batch.labels) + own_losses(encoded) + self.regulariser(encoded)


def own_losses(encoded: Encoded) -> Tensor | float:
    """The sum of the losses that the model brings itself."""
    return sum(encoded.losses.values()) if encoded.losses else 0.0


def by_row(candidates: State, shape: torch.Size) -> State:
    """States of flattened candidates as [rows, candidates, …]."""
    return states.map_state(lambda part: part.view(*shape, *part.shape[1:]), candidates)
