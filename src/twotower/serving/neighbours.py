"""Nearest items by the cosine of their states."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import State, TopK
from twotower.index.exact import ExactIndex


def flat(states: State) -> Float[Tensor, "rows numbers"]:
    """Flatten each state to one vector of float32: several vectors, or a NamedTuple of them, are laid end to end.

    Parts that are not floating point (ids, query indices, codes) are left out, so that there may be no number.

    Examples:
        >>> flat(torch.tensor([[1, 2], [3, 4]])).shape, flat(torch.zeros(3, 2, 4)).shape, flat(torch.zeros(3)).shape
        (torch.Size([2, 0]), torch.Size([3, 8]), torch.Size([3, 1]))
    """
    parts = [states] if isinstance(states, Tensor) else list(states)
    rows = len(parts[0])
    return torch.cat(
        [part.reshape(rows, -1) if part.is_floating_point() else part.new_zeros(rows, 0) for part in parts], dim=1
    ).float()


def directions(states: State) -> Float[Tensor, "rows numbers"]:
    """Return each state as one vector of length 1, so that inner products are cosines; a zero state stays zero.

    The cosine of states of several vectors weighs each part by its share of the length: see `flat`.

    Raises:
        InputError: if a state holds fewer than two numbers, so that all items point the same way.

    Examples:
        >>> directions(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    vectors = flat(states)
    if vectors.shape[1] < 2:
        raise InputError(
            "this model has no item vectors, so no two items are closer than others; use a model that learns some"
        )
    return F.normalize(vectors, dim=1)


class Neighbours:
    """Find the items nearest to given directions.

    Args:
        vectors: what `directions` gave.
        ids: the number of each row, int64.
    """

    def __init__(self, vectors: Float[Tensor, "rows numbers"], ids: Int[Tensor, " rows"]) -> None:
        self._ids, order = ids.sort()
        self._vectors = vectors[order]
        self._index = ExactIndex()
        self._index.build(vectors, ids)

    def vectors(self, ids: Int[Tensor, " queries"]) -> Float[Tensor, "queries numbers"]:
        """Return the directions of ``ids``."""
        return self._vectors[torch.searchsorted(self._ids, ids)]

    def of_ids(self, ids: Int[Tensor, " queries"], k: int, allow: Tensor | None = None) -> TopK:
        """Return the ``k`` items nearest to each of ``ids``, itself left out; ``allow`` as in `Index.search`."""
        return self.of_vectors(self.vectors(ids), k, ids, allow)

    def of_vectors(
        self,
        vectors: Float[Tensor, "queries numbers"],
        k: int,
        leave_out: Int[Tensor, " queries"],
        allow: Tensor | None = None,
    ) -> TopK:
        """Return the ``k`` items nearest to each of ``vectors``; ``leave_out`` is one id a query, -1 for none."""
        return self._index.search(vectors, k, leave_out[:, None], allow)
