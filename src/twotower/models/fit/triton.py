"""Compiled scoring on a GPU with Triton: one request in few passes; `twotower.models.fit.native` is the CPU's."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from twotower.core.errors import InputError
from twotower.models.fit.tables import served_heads
from twotower.scorers.heads import HeadScorer
from twotower.scorers.lss import LSS

Scores = Callable[..., Tensor]
UserPass = Callable[..., Tensor]


def scores_of_one_user(
    queries: Float[Tensor, "queries user_heads dim"],
    ids: Integer[Tensor, " candidates"],
    index: Integer[Tensor, " items"],
    heads: Float[Tensor, "items item_heads dim"] | Integer[Tensor, "items item_heads dim"],
    step: Float[Tensor, " items"] | None,
    weights: Float[Tensor, " weights"],
    hidden: int,
) -> Float[Tensor, " candidates"]:
    """Score one user with items ``ids`` as `FIT.score` does under `LSS`, as sums that compile to one loop over items.

    Compiled, item states are read where they are stored, no head is copied for an item and the scorer's layers never
    reach memory; plain, it is slower than `FIT.score`. ``weights`` are those of `packed_weights`.
    """
    chosen = queries[index[ids].long().clamp(max=len(queries) - 1)]  # states of another model must not read beyond
    picked = heads[ids].to(queries.dtype)
    if step is not None:
        picked = picked * step[ids].to(queries.dtype)[:, None, None]
    user_heads, item_heads = chosen.shape[1], picked.shape[1]
    row_weight, row_bias, column_weight, column_bias, projection = weights.split(
        [hidden * item_heads, hidden, hidden * user_heads, hidden, hidden * hidden]
    )
    # One vector [candidates] a pair of heads: loops that the compiler can keep in registers.
    similarity = [[(chosen[:, u] * picked[:, v]).sum(-1) for v in range(item_heads)] for u in range(user_heads)]
    rows = row_weight.view(hidden, item_heads)
    first = [
        torch.relu(sum((rows[:, v, None] * row[v] for v in range(item_heads)), row_bias[:, None])) for row in similarity
    ]
    columns = column_weight.view(hidden, user_heads)
    # [hidden, hidden, candidates], summed at once: a sum a column would wait for its threads hidden times.
    mixed = sum((columns[:, u, None, None] * first[u] for u in range(user_heads)), column_bias[:, None, None])
    return (projection.view(hidden, hidden, 1) * torch.relu(mixed)).sum((0, 1))


def lss_of(scorer: HeadScorer) -> LSS:
    """Return the learned reduction of a scorer.

    Raises:
        InputError: if it has another.
    """
    if not isinstance(scorer.reduction, LSS):
        raise InputError(f"only the scorer 'lss' is compiled, this model has {type(scorer.reduction).__name__}")
    return scorer.reduction


def packed_weights(lss: LSS) -> Float[Tensor, " weights"]:
    """Return the scorer's weights in one row, in the order in which they are used."""
    parts = (lss.rows.weight, lss.rows.bias, lss.columns.weight, lss.columns.bias, lss.projection.weight)
    return torch.cat([part.detach().flatten() for part in parts])


def compiled_scores(scorer: HeadScorer) -> Scores:
    """Compile `scores_of_one_user` with the scorer's current weights filled in, at the first call.

    Raises:
        InputError: if the scorer is another than `LSS`.
    """
    lss = lss_of(scorer)
    # Ids come checked: see `twotower.models.rank.ordered_candidates`.
    compiled = torch.compile(scores_of_one_user, options={"assert_indirect_indexing": False})
    weights, hidden = packed_weights(lss), len(lss.rows.bias)
    return lambda queries, ids, index, heads, step: compiled(queries, ids, index, heads, step, weights, hidden)


def compiled_user_pass() -> UserPass:
    """Compile `served_heads`: its small kernels become half as many."""
    return torch.compile(served_heads)
