"""One request's scores in a single compiled pass, for machines that have a compiler."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from twotower.core.errors import InputError
from twotower.scorers.heads import HeadScorer
from twotower.scorers.lss import LSS

Scores = Callable[..., Tensor]


def scores_of_one_user(
    queries: Float[Tensor, "queries user_heads dim"],
    ids: Integer[Tensor, " candidates"],
    index: Integer[Tensor, " items"],
    heads: Float[Tensor, "items item_heads dim"] | Integer[Tensor, "items item_heads dim"],
    step: Float[Tensor, " items"] | None,
    rows: tuple[Tensor, Tensor],
    columns: tuple[Tensor, Tensor],
    projection: Float[Tensor, " hidden_squared"],
) -> Float[Tensor, " candidates"]:
    """`FIT.score` of one user with items ``ids`` under `LSS`, as sums that a compiler makes one loop over items of.

    Compiled, item states are read where they are stored, no head is copied for an item and the scorer's layers never
    reach memory; plain, it is slower than `FIT.score`.
    """
    chosen = queries[index[ids].long()]
    picked = heads[ids].to(queries.dtype)
    if step is not None:
        picked = picked * step[ids].to(queries.dtype)[:, None, None]
    similarity = (chosen[:, :, None] * picked[:, None]).sum(-1).permute(1, 2, 0)  # [H_u, H_v, items]
    weight, bias = rows
    first = torch.relu((weight[:, :, None] * similarity[:, None]).sum(2) + bias[:, None])  # [H_u, hidden, items]
    weight, bias = columns
    second = bias[:, None, None]
    for head in range(weight.shape[1]):
        second = second + weight[:, head, None, None] * first[head]
    return (projection.view(len(bias), -1, 1) * torch.relu(second)).sum((0, 1))


def compiled_scores(scorer: HeadScorer) -> Scores:
    """A compiled `scores_of_one_user` with the scorer's weights filled in; the first call compiles.

    Raises:
        InputError: if the scorer is another than `LSS`.
    """
    lss = scorer.reduction
    if not isinstance(lss, LSS):
        raise InputError(f"only the scorer 'lss' is compiled, this model has {type(lss).__name__}")
    compiled = torch.compile(scores_of_one_user)
    weights = (
        (lss.rows.weight, lss.rows.bias),
        (lss.columns.weight, lss.columns.bias),
        lss.projection.weight[0],
    )
    return lambda queries, ids, index, heads, step: compiled(queries, ids, index, heads, step, *weights)
