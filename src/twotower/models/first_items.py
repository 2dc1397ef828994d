"""First item vectors from the log: the leading eigenvectors of how items occur together."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from twotower.data.log import Log
from twotower.models.baselines.cooccurrence import incidence
from twotower.ops.memory import need_memory

ROUNDS = 8
"""Of the subspace iteration; the vectors are a start, so a rough subspace will do."""


def cooccurrence_vectors(log: Log, num_items: int, dim: int) -> Float[Tensor, "items dim"]:
    """Return vectors whose inner products are about the cosines of items: zero for items without a user.

        V · sqrt(max(0, Λ − 1)),  V and Λ the leading eigenvectors and values of D^-½ XᵀX D^-½

    X is the binary users × items matrix, D the items' numbers of users. The −1 takes out an item's cosine with itself.
    Found by subspace iteration on X alone, without the table of item pairs; the same for the same log.

    Args:
        log: training events.
        num_items: rows of the item vocabulary.
        dim: eigenvectors that are taken; where there are fewer, the last numbers are 0.

    Raises:
        InputError: if the memory that is free does not hold them; says both numbers.
    """
    from scipy.sparse import diags_array

    width = min(2 * dim, num_items)
    need_memory(
        16.0 * num_items * width + 24.0 * log.num_events,
        f"init = 'cooccurrence': {num_items:,} items with {width} numbers need",
        "set model.init = 'drawn'",
    )
    seen = incidence(log, num_items)
    scaled = seen @ diags_array(1.0 / np.sqrt(np.maximum(seen.sum(axis=0), 1.0)))
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((num_items, width), dtype=np.float32))[0]
    for _ in range(ROUNDS):
        basis = np.linalg.qr((scaled.T @ (scaled @ basis)).astype(np.float32))[0]
    inside = scaled @ basis
    values, turns = np.linalg.eigh(inside.T @ inside)
    best = np.argsort(-values)[:dim]
    vectors = np.zeros((num_items, dim), dtype=np.float32)
    vectors[:, : len(best)] = basis @ turns[:, best] * np.sqrt(np.maximum(values[best] - 1.0, 0.0))
    vectors[np.diff(seen.tocsc().indptr) == 0] = 0.0
    return torch.from_numpy(vectors)
