"""Map: item vectors of a bundle on a plane, and where users and further items lie on it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from twotower.core.records import State
from twotower.core.seeds import torch_generator
from twotower.core.states import take
from twotower.diagnosis.projections import Axes, principal_axes
from twotower.serving.asking import Asker
from twotower.serving.bundle import Bundle
from twotower.serving.neighbours import directions

MOST_POINTS = 2_000
"""Items on the map, drawn at random from more."""


class Space:
    """Draw the directions of item vectors on their first two principal axes, computed once.

    Args:
        bundle: whose items.
        seed: of the sample.

    Raises:
        InputError: if the model has no item vectors.
    """

    def __init__(self, bundle: Bundle, *, seed: int = 0) -> None:
        self._bundle = bundle
        self._ids, self._order = bundle.item_ids.sort()
        total = len(self._ids)
        chosen = torch.randperm(total, generator=torch_generator(seed, "map"))[:MOST_POINTS].sort().values
        chosen = chosen.to(bundle.device)
        vectors = self._directions(chosen)
        self._axes: Axes = principal_axes(vectors.cpu(), 2)
        self.rows: list[int] = bundle.item_ids[chosen].tolist()
        self.points = self._placed(vectors)
        held = f"the two axes hold {float(self._axes.shares.sum()):.0%} of their variance"
        sample = (
            f"{len(chosen):,} of {total:,} items, drawn at random" if len(chosen) < total else f"all {total:,} items"
        )
        self.note = f"Directions of {sample}; {held}."

    def items(self, item_rows: Sequence[int]) -> list[list[float]]:
        """Return the coordinates of items, by their rows in the catalogue."""
        if not item_rows:
            return []
        wanted = torch.tensor(item_rows, dtype=torch.int64, device=self._ids.device)
        return self._placed(self._directions(self._order[torch.searchsorted(self._ids, wanted)]))

    def user(self, asker: Asker) -> list[list[float]]:
        """Return the coordinates of a user's direction; none where the model's user is no vector among its items'."""
        model = self._bundle.model
        if not (model.inner_product and model.has_vectors):
            return []
        with torch.inference_mode():
            state: State = model.encode_users(asker.users)
        if not isinstance(state, Tensor) or state.ndim != 2 or state.shape[1] != len(self._axes.mean):
            return []
        return self._placed(F.normalize(state.float(), dim=1))

    def _directions(self, places: Int[Tensor, " items"]) -> Float[Tensor, "items numbers"]:
        return directions(self._bundle.model.item_store.whole(take(self._bundle.item_states, places)))

    def _placed(self, vectors: Float[Tensor, "rows numbers"]) -> list[list[float]]:
        at = (vectors.cpu().double() - self._axes.mean) @ self._axes.axes.T
        return [[round(value, 4) for value in point] for point in at.tolist()]
