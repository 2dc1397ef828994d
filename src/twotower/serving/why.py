"""Explanations of recommendations: the share of each item of the history in its score."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from twotower.core.records import PADDING, State, TopK, Users
from twotower.models.base import Model, SumsOverHistory
from twotower.ops.topk import top_k

VARIANTS = 256
"""Histories with one item left out that are encoded at a time."""


class Cause(NamedTuple):
    """Hold one item of the history: its outside id, its share in the score and its raw columns."""

    id: str
    share: float
    columns: dict[str, Any]


class Why(NamedTuple):
    """Hold why one item has its score.

    ``causes`` come largest share first; items of the history that change nothing are left out. With ``exact`` they add
    up to the score. Otherwise a share is how much the score falls when that item is left out of the history, and the
    rest is what the model knows beside the history, and what items do together.
    """

    id: str
    score: float
    exact: bool
    causes: list[Cause]


class Shares(NamedTuple):
    """Hold shares in rows: score [items], distinct items of the history [history], shares [history, items]."""

    scores: Float[Tensor, " items"]
    history: Int[Tensor, " history"]
    shares: Float[Tensor, "history items"]
    exact: bool


def shares_of(model: Model, users: Users, states: State, places: Int[Tensor, " items"]) -> Shares:
    """Return what each distinct item of one user's history adds to the score of the item states at ``places``.

    Exactly where the model sums over the history; elsewhere by leaving out all events of one item after the other, of
    those that the model reads.
    """
    with torch.inference_mode():
        encoded = model.encode_users(users)
        scores = model.score_among(encoded, states, places)[0].float()
        if isinstance(model, SumsOverHistory):
            read = encoded[0][encoded[0] != PADDING]
            history, group = read.unique(return_inverse=True)
            shares = scores.new_zeros(len(history), len(places))
            shares.index_add_(0, group, model.contributions(read, states[places]).float())
            return Shares(scores, history, shares, True)
        history = users.history[0].unique()
        history = history[history != PADDING]
        without = [
            model.score_among(model.encode_users(_without(users, part)), states, places).float()
            for part in history.split(VARIANTS)
            if len(part)
        ]
        shares = scores - torch.cat(without) if without else scores.new_zeros(0, len(places))
        return Shares(scores, history, shares, False)


def similar_by_sum(
    model: SumsOverHistory,
    row: int,
    item_ids: Int[Tensor, " items"],
    k: int,
    allow: Bool[Tensor, " rows"] | None = None,
) -> TopK:
    """Return the items to which this one adds most when it is in a history, itself left out: [1, k].

    Items to which it adds nothing, or less, are no neighbours: their places are -1. ``allow`` is a mask over rows of
    items.
    """
    with torch.inference_mode():
        shares = model.contributions(item_ids.new_tensor([row]), item_ids).float()
        left_out = (shares <= 0.0) | (item_ids == row)
        if allow is not None:
            left_out |= ~allow[item_ids]
        shares = shares.masked_fill(left_out, -torch.inf)
        best = top_k(shares, k)
        ids = torch.where(best.ids >= 0, item_ids[best.ids.clamp(min=0)], best.ids)
        return TopK(best.scores, ids)


def _without(users: Users, left_out: Tensor) -> Users:
    """One row for each of these items: the user's history without it, moved up and padded at the end."""
    number = len(left_out)
    history = users.history.expand(number, -1)
    kept = (history != left_out[:, None]) & (history != PADDING)
    order = (~kept).to(torch.int8).argsort(dim=1, stable=True)
    still = kept.gather(1, order)
    times = users.history_times
    if times is not None:
        times = times.expand(number, -1).gather(1, order).masked_fill(~still, 0)
    return Users(
        users.ids.expand(number),
        {name: column.expand(number, *column.shape[1:]) for name, column in users.features.items()},
        history.gather(1, order).masked_fill(~still, PADDING),
        times,
    )
