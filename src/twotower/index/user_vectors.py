"""Vectors of users, in which users that are near want the same items: of the states of any model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import State
from twotower.core.states import detach, rows, take
from twotower.index.scan import Score
from twotower.ops.topk import top_k

Vectors: TypeAlias = Callable[[State], Tensor]
"""User states -> float vectors [users, dim]."""

USER_TILE = 1024
"""Rows that are scored at a time."""


def side_by_side(states: State) -> Tensor:
    """Return the numbers of a user's state as one vector.

    Raises:
        InputError: if a part holds no real numbers, such as ids of a history.
    """
    parts = [states] if isinstance(states, Tensor) else list(states)
    if not all(part.is_floating_point() for part in parts):
        raise InputError("nominate: these user states are no vectors; hand over vectors=score_profile(…)")
    return torch.cat([part.flatten(1).float() for part in parts], dim=1)


def score_profile(score: Score, item_states: State, *, anchors: int = 64, seed: int = 0) -> Vectors:
    """Make vectors of users of any model: scores with some items drawn at random, less the user's mean, at length 1."""
    return profile_of(score, drawn_anchors(item_states, anchors=anchors, seed=seed))


def drawn_anchors(item_states: State, *, anchors: int = 64, seed: int = 0) -> State:
    """Draw the states of some items at random: those that a profile of scores is made of."""
    order = torch.randperm(rows(item_states), generator=torch.Generator().manual_seed(seed))[:anchors]
    return take(detach(item_states), order)


def profile_of(score: Score, anchors: State) -> Vectors:
    """Make vectors of users from their scores with these items, less the user's mean, at length 1."""

    def vectors(users: State) -> Tensor:
        with torch.inference_mode():
            starts = range(0, max(1, rows(users)), USER_TILE)
            scores = torch.cat([score(take(users, slice(at, at + USER_TILE)), anchors).float() for at in starts])
            return torch.nn.functional.normalize(scores - scores.mean(dim=1, keepdim=True), dim=1).clone()

    return vectors


def nearest_centres(vectors: Tensor, centres: Tensor, number: int) -> Tensor:
    """Return the ``number`` centres nearest to each vector, nearest first: int64 [users, number]."""
    half = centres.square().sum(1) / 2.0
    wide = min(number, len(half))
    return torch.cat([top_k(part @ centres.T - half, wide).ids for part in vectors.split(USER_TILE)])


def nearest_users(vectors: Tensor, centres: Tensor, number: int) -> Tensor:
    """Return the ``number`` users nearest to each centre, centre after centre; where there are fewer, they repeat.

    Args:
        vectors: of the users, [users, dim].
        centres: [centres, dim].
        number: users a centre.
    """
    half = vectors.square().sum(1) / 2.0
    wide = min(number, len(vectors))
    near = torch.cat([top_k(part @ vectors.T - half, wide).ids for part in centres.split(USER_TILE)])
    return near[:, torch.arange(number) % wide].flatten()
