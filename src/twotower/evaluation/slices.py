"""Slices: metrics of items that training never saw, of users it saw little of, and of the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Bool, Int
from torch import Tensor

from twotower.data.log import Log
from twotower.metrics.ranking import ranking_metrics

FEW_EVENTS = 5
"""A user with fewer training events than this is cold."""


@dataclass(frozen=True)
class Slice:
    """Hold mean metrics over the users that have a truth in the slice; only truths in the slice are relevant."""

    users: int
    truths: int
    metrics: dict[str, float]


def slices(
    ranks: Int[Tensor, " truths"],
    queries: Int[Tensor, " truths"],
    items: Int[Tensor, " truths"],
    users: Int[Tensor, " queries"],
    train: Log,
    ks: Sequence[int],
) -> dict[str, Slice]:
    """Return metrics for ``cold_items`` (no training event), ``cold_users`` (fewer than five) and their complements.

    The complements are ``warm_items`` and ``warm_users``.

    Ranks are those in the full list: other relevant items may stand above. A slice without users has no metrics.
    """
    train = train.positives().to("cpu")
    unseen = train.items.bincount(minlength=int(items.max()) + 1)[items] == 0
    new = (train.lengths[users] < FEW_EVENTS)[queries]
    masks = {"cold_items": unseen, "warm_items": ~unseen, "cold_users": new, "warm_users": ~new}
    return {name: _slice(ranks, queries, mask, ks) for name, mask in masks.items()}


def _slice(ranks: Tensor, queries: Tensor, mask: Bool[Tensor, " truths"], ks: Sequence[int]) -> Slice:
    present, rows = queries[mask].unique(return_inverse=True)
    if not len(present):
        return Slice(0, 0, {})
    found = ranking_metrics(ranks[mask], rows, len(present), ks)
    return Slice(len(present), int(mask.sum()), {name: values.mean().item() for name, values in found.items()})
