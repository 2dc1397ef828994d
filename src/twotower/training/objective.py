"""Objectives reduce one batch to a scalar: the protocol, and the one that needs no negatives (labelled pairs)."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from twotower.core.records import Batch, Encoded
from twotower.losses.pointwise import binary_cross_entropy
from twotower.models.base import Model
from twotower.training.distributed import World
from twotower.training.regularise import Regulariser


@runtime_checkable
class Objective(Protocol):
    """Reduce one batch to a scalar, in nats a row."""

    def __call__(self, model: Model, batch: Batch) -> Tensor:
        """Return the loss, with its graph."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs of its samplers."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        ...


@runtime_checkable
class Replayable(Protocol):
    """Do the same work on the device at every step of one shape, so that a captured step can be replayed for all."""

    def why_not_replayed(self, rows: int) -> str:
        """Return why that does not hold as this one is set, for batches of ``rows`` rows; "" where it does."""
        ...

    def generators(self) -> list[torch.Generator]:
        """Return the generators that it draws from, beside the device's own."""
        ...


class Stateless:
    """Hold nothing that a resumed run needs."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: it draws nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take nothing."""


class Plain(Stateless):
    """Draw nothing, and do the same work at every step, but for a regulariser of the states."""

    regulariser: Regulariser

    def why_not_replayed(self, rows: int) -> str:
        """Return why a step cannot be captured, "" where it can."""
        return "objective.regularise is set" if self.regulariser.weights else ""

    def generators(self) -> list[torch.Generator]:
        """Return none."""
        return []


class AgainstLabels(Plain):
    """Compute binary cross-entropy of the rows' own labels."""

    def __init__(self, regulariser: Regulariser | None = None, *, world: World | None = None) -> None:
        self.regulariser, self.world = regulariser or Regulariser({}), world or World()

    def __call__(self, model: Model, batch: Batch) -> Tensor:
        """Return the mean over rows."""
        assert batch.labels is not None
        encoded = model(batch)
        scores = model.score_rows(encoded.users, encoded.items) * model.logit_scale()
        together = self.world.gather(encoded) if self.regulariser.weights else encoded
        loss = binary_cross_entropy(scores, batch.labels)
        return with_terms(loss, own_losses(encoded), self.regulariser(together))


def own_losses(encoded: Encoded) -> Tensor | float:
    """Return the sum of the model's own losses."""
    return sum(encoded.losses.values()) if encoded.losses else 0.0


def with_terms(loss: Tensor, *terms: Tensor | float) -> Tensor:
    """Return the sum of a loss and further terms; a 0 of Python is left out, which saves a GPU a launch."""
    for term in terms:
        if isinstance(term, Tensor) or term:
            loss = loss + term
    return loss
