"""Frequency of items in a stream of batches, from the gaps between their appearances, in hashed arrays."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

PRIME = 2**31 - 1


def hash_cells(
    ids: Int[Tensor, " ids"], multipliers: Int[Tensor, " hashes"], offsets: Int[Tensor, " hashes"], width: int
) -> Int[Tensor, "hashes ids"]:
    """Return the cell of each id in each array: ((a · id + b) mod p) mod width, p = 2³¹ − 1, ids below p.

    Source: universal hashing, Carter and Wegman 1979.
    """
    return (multipliers[:, None] * ids + offsets[:, None]).remainder_(PRIME).remainder_(width)


def update_gaps(
    last_step: Int[Tensor, "hashes width"],
    gap: Float[Tensor, "hashes width"],
    cells: Int[Tensor, "hashes ids"],
    step: int,
    rate: float,
) -> None:
    """Record, in place, that the ids of ``cells`` occurred at ``step``.

    gap ← (1 − rate) gap + rate (step − last step).

    All ids are read before any is written, so an id that stands twice in the batch, or two ids in one cell, make one
    update. In the paper's loop the second would see a gap of 0.

    Source: section 3.2 of the negative-sampling report; Yi et al., RecSys 2019, algorithm 2.
    """
    seen = gap.gather(1, cells)
    since = (step - last_step.gather(1, cells)).to(gap.dtype)
    gap.scatter_(1, cells, seen + rate * (since - seen))
    last_step.scatter_(1, cells, step)


def expected_gap(gap: Float[Tensor, "hashes width"], cells: Int[Tensor, "hashes ids"]) -> Float[Tensor, " ids"]:
    """Return the expected steps between two appearances.

    The largest over the arrays, since sharing a cell can only shorten a gap.

    Source: as `update_gaps`.
    """
    return gap.gather(1, cells).amax(0)
