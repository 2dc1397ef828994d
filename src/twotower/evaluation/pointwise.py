"""Labelled pairs instead of a catalogue: does a model score positives above the negatives that came with them?"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import Batch
from twotower.data.dataset import Dataset
from twotower.data.split import Targets
from twotower.metrics.pointwise import auc, grouped_auc, log_loss
from twotower.models.base import Model
from twotower.models.encode import inference, users_with_history

PAIR_TILE = 4096


@dataclass(frozen=True)
class PairResult:
    """Row i of every tensor is labelled pair i, users ascending; all on the CPU."""

    users: Tensor
    items: Tensor
    labels: Tensor
    scores: Tensor
    """Before temperature, float32."""
    metrics: dict[str, float]
    """auc, gauc, log_loss; gauc is left out when no user has both classes."""
    gauc_users: int
    """Users with both classes, over whom gauc is taken."""


def evaluate_pairs(model: Model, dataset: Dataset, targets: Targets, *, pair_tile: int = PAIR_TILE) -> PairResult:
    """Score every labelled event of ``targets.truth``, the user as of the end of the positive ``targets.history``.

    The log loss takes score × the model's ``logit_scale()`` as the logit.

    Args:
        pair_tile: pairs scored at a time; it has no effect on the result.

    Raises:
        InputError: if the truth has no labels, all are of one class, or a score is NaN.
    """
    truth, history = targets.truth.to(dataset.device), targets.history.to(dataset.device).positives()
    if truth.labels is None:
        raise InputError("these targets have no labels, so every event is a positive: AUC and log loss need negatives")
    users = truth.users()
    scores = torch.zeros(len(users), device=dataset.device)
    with inference(model):
        for rows in torch.arange(len(users), device=dataset.device).split(pair_tile):
            asked = users_with_history(dataset, history, users[rows], model.history_length)
            batch = Batch(asked, dataset.items(truth.items[rows]), truth.labels[rows])
            scores[rows] = model.score_pairs(batch).float()
        logits = (scores * model.logit_scale()).cpu()
    scores, labels, users = scores.cpu(), truth.labels.cpu(), users.cpu()
    metrics = {"auc": auc(scores, labels), "log_loss": log_loss(logits, labels)}
    both = 0
    with contextlib.suppress(InputError):  # One pair a user is a sound data set: gauc is just not there.
        metrics["gauc"], both = grouped_auc(scores, labels, users)
    return PairResult(users, truth.items.cpu(), labels, scores, metrics, both)
