"""Candidates of one training step: whose they are, which the step encodes, and what the loss reads of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from twotower.core import states
from twotower.core.records import Batch, Encoded, Negatives, State


class StepCandidates(NamedTuple):
    """Hold what the loss and a filter need to know of candidates.

    ``scores`` (over the temperature), ``mask`` (False: does not count) and ``known`` (the row's own item, or another
    positive of its user) are [rows, candidates]; ``log_q`` and ``norms`` (squared lengths, where asked for) are
    [candidates] or [rows, candidates].
    """

    scores: Tensor
    log_q: Tensor
    mask: Tensor
    known: Tensor
    norms: Tensor | None


def own_rows(negatives: Negatives, own: slice) -> Negatives:
    """Return shared candidates as they are, and of those that each row has for itself the rows of this rank."""
    if own == slice(None):
        return negatives
    ids, log_q, keep = (
        part[own] if part is not None and part.ndim == 2 else part
        for part in (negatives.ids, negatives.log_q, negatives.keep)
    )
    assert ids is not None
    assert log_q is not None
    per_row = None if negatives.per_row is None else own_rows(negatives.per_row, own)
    return negatives._replace(ids=ids, log_q=log_q, keep=keep, per_row=per_row)


def drawn_ids(negatives: Negatives) -> Tensor:
    """Return the candidates that the step must encode: neither the batch's own nor kept ones, one after the other."""
    return negatives.ids.flatten()[negatives.in_batch : negatives.in_batch + drawn_number(negatives)]


def drawn_number(negatives: Negatives) -> int:
    """Return how many candidates the step must encode."""
    kept = 0 if negatives.states is None else states.rows(negatives.states)
    return negatives.ids.numel() - negatives.in_batch - kept


def with_gradient_of(part: Tensor, many: float) -> Tensor:
    """Return the same numbers, up to rounding, with ``many`` times the gradient."""
    return part * many - (part * (many - 1.0)).detach() if part.requires_grad else part


def side_by_side(shared: StepCandidates, own: StepCandidates) -> StepCandidates:
    """Return shared candidates, then those of each row's own."""
    joined = (
        None if left is None or right is None else torch.cat([left.expand(len(right), left.shape[-1]), right], dim=1)
        for left, right in zip(shared, own._replace(log_q=own.log_q.expand_as(own.scores)), strict=True)
    )
    return StepCandidates(*joined)  # type: ignore[arg-type]


def users_of(batch: Batch, encoded: Encoded) -> Tensor:
    """Return the user of each row that was encoded."""
    return batch.users.ids if encoded.user_rows is None else batch.users.ids[encoded.user_rows]


def by_row(candidates: State, shape: torch.Size) -> State:
    """Return states of flattened candidates as [rows, candidates, …]."""
    return states.map_state(lambda part: part.view(*shape, *part.shape[1:]), candidates)
