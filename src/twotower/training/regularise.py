"""Regularisers: terms of the objective that read the states of a batch alone and prevent a collapse."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from twotower.core.records import FIRST_KNOWN, Encoded, State
from twotower.losses.decorrelate import centring, decorrelation, uniformity

TERMS: dict[str, Callable[[Tensor], Tensor]] = {
    "uniformity": uniformity,
    "decorrelation": decorrelation,
    "centring": centring,
}
MOST_ROWS = 1024
"""Rows of each side that are looked at, evenly spaced, so that the cost does not grow with the square of a batch."""


class Regulariser:
    """Compute the weighted sum of terms over the states of a batch, averaged over sides.

    The batch's user states, and its item states, each item once.

    Args:
        weights: of terms, by their names in `TERMS`; empty: nothing is added.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.weights = {name: weight for name, weight in weights.items() if weight}

    def __call__(self, encoded: Encoded, table: State | None = None) -> Tensor | float:
        """Return the sum. ``table`` holds the states of all items by row number, where the step has them anyway."""
        if not self.weights:
            return 0.0
        if table is not None:
            items = table[_distinct(encoded.item_ids)]
        else:
            assert encoded.items is not None
            items = encoded.items[_first_places(encoded.item_ids)]
        sides = [rows for rows in (_spaced(encoded.users), _spaced(items)) if len(rows) > 1]
        return sum(weight * TERMS[name](rows) for rows in sides for name, weight in self.weights.items()) / 2


def _distinct(ids: Tensor) -> Tensor:
    distinct = ids.unique()
    return distinct[distinct >= FIRST_KNOWN]


def _first_places(ids: Tensor) -> Tensor:
    """The first row of each known item."""
    distinct, place = ids.unique(return_inverse=True)
    rows = torch.arange(len(ids), device=ids.device)
    first = torch.full((len(distinct),), len(ids), device=ids.device).scatter_reduce(0, place, rows, "amin")
    return first[distinct >= FIRST_KNOWN]


def _spaced(rows: Tensor) -> Tensor:
    """At most `MOST_ROWS` rows with a direction, evenly spaced."""
    rows = rows[rows.detach().abs().amax(1) > 0]
    return rows[:: -(-len(rows) // MOST_ROWS) or 1]
