"""Factorisation of a log: implicit-feedback alternating least squares, whose vectors cold-start models learn from."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from twotower.core.seeds import torch_generator
from twotower.data.log import Log
from twotower.models.baselines.cooccurrence import incidence
from twotower.ops.memory import need_memory

if TYPE_CHECKING:
    from scipy.sparse import csr_array

ROUNDS = 10
"""Alternations; each solves for all users, then for all items."""
BLOCK = 1 << 22
"""Numbers of vectors and matrices that are gathered at a time."""


class Factors(NamedTuple):
    """Hold one vector a user and one an item; their inner product is near 1 where the user took the item.

    They are zero where there is no event.
    """

    users: Tensor
    items: Tensor


def factorise(
    log: Log,
    num_items: int,
    dim: int,
    *,
    confidence: float = 20.0,
    regularisation: float = 10.0,
    rounds: int = ROUNDS,
    dtype: torch.dtype = torch.float32,
) -> Factors:
    """Fit factors of the users × items matrix of a log by alternating least squares; the same for the same log.

        min Σ_ui c_ui (p_ui − x_u · y_i)² + λ (Σ_u |x_u|² + Σ_i |y_i|²),   c_ui = 1 + α p_ui

    p is 1 where the user has a positive event with the item and 0 elsewhere. Each half of a round is the exact solution
    x_u = (YᵀY + α Σ_i∈u y_i y_iᵀ + λI)⁻¹ (1 + α) Σ_i∈u y_i.

    Source: Hu, Koren and Volinsky, ICDM 2008, equations 3 and 4, with counts taken as 0 or 1.

    Args:
        log: training events.
        num_items: rows of the item vocabulary.
        dim: width of vectors.
        confidence: α.
        regularisation: λ.
        rounds: alternations.
        dtype: of the arithmetic.

    Raises:
        InputError: if the memory that is free does not hold them; says both numbers.
    """
    seen = incidence(log, num_items)
    num_users = seen.shape[0]
    need_memory(
        8.0 * dim * (num_users + num_items) + 24.0 * log.num_events + 16.0 * BLOCK,
        f"factorisation of {num_users:,} users and {num_items:,} items with {dim} numbers needs",
        "lower model.factor_dim",
    )
    items = 0.1 * torch.randn(num_items, dim, generator=torch_generator(0, "factors"), dtype=torch.float64).to(dtype)
    by_item: csr_array = seen.T.tocsr()
    items[torch.from_numpy(np.diff(by_item.indptr) == 0)] = 0.0
    users = items.new_zeros(num_users, dim)
    for _ in range(rounds):
        users = _solved(seen, items, confidence, regularisation)
        items = _solved(by_item, users, confidence, regularisation)
    return Factors(users, items)


def _solved(
    seen: csr_array, others: Float[Tensor, "others dim"], confidence: float, regularisation: float
) -> Float[Tensor, "rows dim"]:
    """The exact vectors of all rows, given those of the columns; rows of like length together, padded with zeros."""
    dim = others.shape[1]
    starts, columns = torch.from_numpy(seen.indptr.astype(np.int64)), torch.from_numpy(seen.indices.astype(np.int64))
    lengths = starts.diff()
    padded = torch.cat([others, others.new_zeros(1, dim)])
    common = others.T @ others + regularisation * torch.eye(dim, dtype=others.dtype)
    found = others.new_zeros(len(lengths), dim)
    order = lengths.argsort(stable=True)
    order = order[lengths[order] > 0]
    done = 0
    while done < len(order):
        # As many rows as fit with the longest of them; lengths ascend, so the last row of a block is the longest.
        share = max(1, BLOCK // (dim * (dim + int(lengths[order[done]]))))
        rows = order[done : done + share]
        wide = int(lengths[rows[-1]])
        rows = rows[: max(1, BLOCK // (dim * (dim + wide)))]
        wide = int(lengths[rows[-1]])
        at = torch.arange(wide)
        place = (starts[rows][:, None] + at).clamp(max=len(columns) - 1)
        ids = torch.where(at < lengths[rows][:, None], columns[place], len(others))
        near = padded[ids]
        matrix = common + confidence * (near.transpose(1, 2) @ near)
        target = (1.0 + confidence) * near.sum(1)
        found[rows] = torch.linalg.solve(matrix, target)
        done += len(rows)
    return found
