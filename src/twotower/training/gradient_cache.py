"""Gradient caching: a large batch encoded a few rows at a time, with the gradients of the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from twotower.core import states
from twotower.core.errors import InputError
from twotower.core.records import Batch, Features, Items, State, Users
from twotower.models.base import Model
from twotower.training.objective import Objective


class GradientCached:
    """Compute another objective from states that are encoded in parts.

    First all parts are encoded and only their states are kept; the loss of the whole batch gives each state its
    gradient; then each part is encoded once more and passes its gradient on. So a step holds the layers of one part,
    for a second encoding of each. Loss and gradients are those of the plain step up to rounding, and dropout is drawn
    alike both times. Scores of a batch with its candidates remain one matrix.

    Source: Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, RepL4NLP 2021.
    Difference: the second encoding is a part of the backward pass, so that any objective over states will do.

    Args:
        objective: of the states.
        rows: users, or items, that are encoded at a time.

    Raises:
        InputError: if ``rows`` is below 1.
    """

    def __init__(self, objective: Objective, rows: int) -> None:
        if rows < 1:
            raise InputError(f"gradient caching encodes at least a row at a time, got {rows}")
        self.objective, self.rows = objective, rows
        self._parts: InParts | None = None

    def __call__(self, model: Model, batch: Batch) -> Tensor:
        """Return the objective's loss, with its graph."""
        if self._parts is None or self._parts.model is not model:
            self._parts = InParts(model, self.rows)
        self._parts.training = model.training
        return self.objective(self._parts, batch)

    def state_dict(self) -> dict[str, Any]:
        """Return the objective's state."""
        return self.objective.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the objective's state."""
        self.objective.load_state_dict(state)


class InParts(Model):
    """Encode with a model a few rows at a time, and let go of all but the states until gradients need it.

    Args:
        model: whose `forward` is that of `Model`, and whose rows do not see each other.
        rows: of a part.

    Raises:
        InputError: if the model looks at its batch as a whole.
    """

    def __init__(self, model: Model, rows: int) -> None:
        super().__init__()
        check_in_parts(model)
        self.model, self.rows = model, rows
        self.schema, self.batches, self.history_length = model.schema, model.batches, model.history_length
        self.has_vectors, self.inner_product = model.has_vectors, model.inner_product
        self.user_kind, self.item_store = model.user_kind, model.item_store

    def encode_users(self, users: Users) -> State:
        """Return user states, one row a user."""
        return self._in_parts("encode_users", users.ids, lambda part: _users(users, part))

    def encode_items(self, items: Items) -> State:
        """Return item states, one row an item."""
        return self._in_parts("encode_items", items.ids, lambda part: _items(items, part))

    def score(self, users: State, items: State) -> Tensor:
        """Score every user with every item, as the model does."""
        return self.model.score(users, items)

    def score_rows(self, users: State, items: State) -> Tensor:
        """Score row i with row i, or with each of its n, as the model does."""
        return self.model.score_rows(users, items)

    @property
    def scores_all(self) -> bool:
        """Return whether a step can have the scores of its rows with all items."""
        return self.model.scores_all

    def logit_scale(self) -> Tensor | float:
        """Return 1 / temperature."""
        return self.model.logit_scale()

    def _in_parts(self, name: str, ids: Tensor, cut: Callable[[slice], Users] | Callable[[slice], Items]) -> State:
        def encode(ids: Tensor, part: slice) -> State:
            # A compiled encoder is for parts of one length; a shorter one takes the class's own, as it was written.
            short = self.model.in_one_shape and part.stop > len(ids)
            encoder = getattr(type(self.model), name).__get__(self.model) if short else getattr(self.model, name)
            found: State = encoder(cut(part))
            return found

        parts = [slice(start, start + self.rows) for start in range(0, max(1, len(ids)), self.rows)]
        if len(parts) == 1:
            return encode(ids, parts[0])
        # Ids are handed over so that the generator of their device, from which dropout is drawn, is set back too.
        return states.join([checkpoint(encode, ids, part, use_reentrant=False) for part in parts])


def check_in_parts(model: Model, name: str = "") -> None:
    """Refuse a model whose rows see each other, or that makes its training rows itself.

    Raises:
        InputError: says which.
    """
    norms = any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in model.modules())
    if norms or model.own_forward or model.row_by_row is False:
        why = "normalises over its batch" if norms else "reads its batch as a whole"
        raise InputError(
            f"model '{name or type(model).__name__}' {why}, so it cannot encode a batch in parts: set "
            "training.encode_rows = 0, or take a model such as two_tower"
            + (" with model.batch_norm = false" if norms else "")
        )


def _users(users: Users, part: slice) -> Users:
    times = None if users.history_times is None else users.history_times[part]
    return Users(users.ids[part], _features(users.features, part), users.history[part], times)


def _items(items: Items, part: slice) -> Items:
    return Items(items.ids[part], None if items.features is None else _features(items.features, part))


def _features(features: Features, part: slice) -> Features:
    return {name: column[part] for name, column in features.items()}
