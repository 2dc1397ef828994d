"""Mixture of two whole models: the sum of their scores, each divided by its deviation over the catalogue."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import FIRST_KNOWN, PADDING, Items, State, Users
from twotower.core.schema import Schema
from twotower.data.log import Log
from twotower.models.base import ClosedForm, Model, OffersChoices, reads_catalogue
from twotower.models.item_store import ItemStore
from twotower.models.registry import build_model

BLOCK = 1 << 24
"""Scores held at a time while deviations are computed."""


class MixedUsers(NamedTuple):
    """Hold what each part makes of the users, and what its scores are multiplied by: [rows, 2]."""

    first: Tensor
    second: Tensor
    scales: Tensor


class MixedItems(NamedTuple):
    """Hold what each part makes of the items."""

    first: Tensor
    second: Tensor


class Mixture(OffersChoices):
    """Score an item by a weighted sum of two models' scores, both standardised over the catalogue for each user.

        score(u, i) = first(u, i) / σ_first(u) + weight · second(u, i) / σ_second(u)

    σ(u) is the standard deviation of the user's scores over all known items; a part that scores them all alike says
    nothing. (The means would add the same to every item.) Where both parts are vectors with an inner product, so is the
    mixture: their vectors side by side, so that an index can serve it. Else the catalogue is scored.

    Ours, as the usual linear combination of standardised scores: Lee, Analyses of Multiple Evidence Combination, SIGIR
    1997. A part that is trained is not fitted here: `twotower.fit` mixes what it has trained, see `hold`.

    Args:
        first: name of a model.
        second: name of another.
        first_settings: its settings.
        second_settings: likewise.
        weight: of the second part, against 1 for the first; 0: a run chooses it on its validation split, by steps of 2
            from 1. Without a run it is 1.
    """

    choice = "weight"
    ladder = 2.0
    no_onnx = "it is two models, each with towers of its own: export its parts"
    first_spread: Tensor
    second_spread: Tensor

    def __init__(
        self,
        schema: Schema,
        *,
        first: str = "item_cosine",
        second: str = "item_lists",
        first_settings: dict[str, Any] = {},  # noqa: B006  # settings are written as TOML, and never changed
        second_settings: dict[str, Any] = {},  # noqa: B006
        weight: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0.0 <= weight < math.inf:
            raise ValueError(f"weight must be finite and at least 0, got {weight!r}")
        self.schema = schema
        self.weight = weight
        self.first = _part(first, schema, first_settings)
        self.second = _part(second, schema, second_settings)
        self.has_vectors = self.inner_product = self.first.inner_product and self.second.inner_product
        self.item_store = ItemStore(None if self.inner_product else MixedItems)
        self.user_kind = None if self.inner_product else MixedUsers
        lengths = [part.history_length for part in self.parts]
        self.history_length = None if None in lengths else max(length or 0 for length in lengths)
        self._learnt: Log | None = None
        for name in ("first_spread", "second_spread"):
            self.register_buffer(name, torch.zeros(0, 0))

    @property
    def parts(self) -> tuple[Model, Model]:
        """Return the two models."""
        return self.first, self.second

    @property
    def undecided(self) -> bool:
        """Return whether the weight is left to the validation split."""
        return self.weight == 0.0

    def first_choice(self, log: Log) -> float:
        """Return 1: both parts count alike."""
        return 1.0

    def settle(self, value: float) -> None:
        """Take a weight."""
        self.weight = value

    def fit_log(self, log: Log) -> None:
        """Fit both parts, which must be closed forms; an open number of theirs takes its first choice.

        Raises:
            InputError: if a part is one that is trained.
        """
        if self._learnt is log:  # the search for the weight fits one log several times
            return
        for part in self.parts:
            if not isinstance(part, ClosedForm):
                raise InputError(
                    f"model 'mixture': its part {type(part).__name__} is trained, not fitted in one go; 'twotower fit' "
                    "mixes the best models that it has trained"
                )
            part.fit_log(log)
        self._measure(*(part.encode_items(self._catalogue(log.items)) for part in self.parts))
        self._learnt = log

    def hold(self, first: Model, second: Model, *, items: tuple[State, State]) -> None:
        """Take two models that are trained or fitted, of the kinds and settings that this mixture names.

        Args:
            first: the first part.
            second: the second part.
            items: what each makes of every known item.
        """
        self.first, self.second = first, second
        self._measure(*items)

    def encode_users(self, users: Users) -> State:
        """Return both parts' user states and scales; side by side and scaled where both are vectors."""
        states = [part.encode_users(_latest(users, part.history_length)) for part in self.parts]
        factors = []
        for part, state, spread, weight in zip(
            self.parts, states, (self.first_spread, self.second_spread), (1.0, self.weight or 1.0), strict=True
        ):
            deviation = self._deviation(part, state, spread)
            factors.append(torch.where(deviation > 0, weight / deviation, 0.0))
        if self.inner_product:
            return torch.cat([state * factor[:, None] for state, factor in zip(states, factors, strict=True)], dim=1)
        return MixedUsers(states[0], states[1], torch.stack(factors, dim=1))

    def encode_items(self, items: Items) -> State:
        """Return both parts' item states; side by side where both are vectors."""
        first, second = (part.encode_items(items) for part in self.parts)
        return torch.cat([first, second], dim=1) if self.inner_product else MixedItems(first, second)

    def score(self, users: State, items: State) -> Float[Tensor, "users items"]:
        """Score every user with every item."""
        if self.inner_product:
            return super().score(users, items)
        first, second = self.first.score(users.first, items.first), self.second.score(users.second, items.second)
        return first * users.scales[:, :1] + second * users.scales[:, 1:]

    def score_rows(self, users: State, items: State) -> Float[Tensor, "rows *n"]:
        """Score row i with row i, or with each of its n items."""
        if self.inner_product:
            return super().score_rows(users, items)
        found = self.first.score_rows(users.first, items.first), self.second.score_rows(users.second, items.second)
        shape = (len(users.scales), *[1] * (found[0].ndim - 1))
        return found[0] * users.scales[:, 0].view(shape) + found[1] * users.scales[:, 1].view(shape)

    def _deviation(self, part: Model, state: Tensor, spread: Tensor) -> Float[Tensor, " rows"]:
        """The standard deviation of each user's scores over all known items."""
        if part.inner_product:
            return ((state @ spread) * state).sum(1).clamp(min=0.0).sqrt()
        items = part.encode_items(self._catalogue(state))
        step = max(1, BLOCK // self.schema.num_items)
        return torch.cat([part.score(rows, items).std(1, correction=0) for rows in state.split(step)])

    def _catalogue(self, like: Tensor) -> Items:
        return Items(torch.arange(FIRST_KNOWN, self.schema.num_items, device=like.device))

    def _measure(self, first: State, second: State) -> None:
        """Keep the covariance of each part's item vectors, which gives the deviation of any user's inner products."""
        for name, part, states in zip(("first_spread", "second_spread"), self.parts, (first, second), strict=True):
            if part.inner_product:
                with torch.no_grad():
                    centred = states.double() - states.double().mean(0)
                    setattr(self, name, (centred.T @ centred / max(1, len(states))).to(states.dtype))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *more: Any) -> None:
        for name in ("first_spread", "second_spread"):  # as wide as the parts' vectors, which settings do not tell
            if isinstance(stored := state_dict.get(prefix + name), Tensor):
                setattr(self, name, torch.zeros_like(stored, device=getattr(self, name).device))
        super()._load_from_state_dict(state_dict, prefix, *more)


def _part(name: str, schema: Schema, settings: dict[str, Any]) -> Model:
    model = build_model(name, schema, settings)
    fits = isinstance(model, ClosedForm) or (model.inner_product and model.has_vectors)
    if not fits or reads_catalogue(model) or isinstance(model, Mixture):
        raise InputError(
            f"model 'mixture': '{name}' cannot be a part; those are closed forms, and models with one vector a user and"
            " an item, scored by inner product"
        )
    return model


def _latest(users: Users, length: int | None) -> Users:
    """The users with the last ``length`` items of their histories, as the part alone would get them."""
    width = users.history.shape[1]
    if length is None or width <= max(1, length):
        return users
    lengths = (users.history != PADDING).sum(1, keepdim=True)
    at = (lengths - max(1, length)).clamp(min=0) + torch.arange(max(1, length), device=lengths.device)
    times = None if users.history_times is None else users.history_times.gather(1, at)
    return users._replace(history=users.history.gather(1, at), history_times=times)
