"""Evaluation on labelled pairs: whether positives score above the negatives that came with them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.records import Batch
from twotower.data.dataset import Dataset
from twotower.data.pairs import PairRows
from twotower.data.split import Targets
from twotower.metrics.pointwise import auc, grouped_auc, log_loss
from twotower.models.base import Model
from twotower.models.encode import inference, users_with_history

PAIR_TILE = 4096


@dataclass(frozen=True)
class PairResult:
    """Hold scores and labels of pairs: row i of every tensor is pair i, in the order given; all on the CPU."""

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
        InputError: if the truth has no labels, all are of one class, or a score or label is NaN.
    """
    truth, history = targets.truth.to(dataset.device), targets.history.to(dataset.device).positives()
    if truth.labels is None:
        raise InputError("these targets have no labels, so every event is a positive: AUC and log loss need negatives")
    users, labels = truth.users(), truth.labels

    def cut(rows: Tensor) -> Batch:
        asked = users_with_history(dataset, history, users[rows], model.history_length)
        return Batch(asked, dataset.items(truth.items[rows]), labels[rows])

    return _judged(model, cut, users, truth.items, labels, pair_tile)


def evaluate_rows(model: Model, rows: PairRows, *, pair_tile: int = PAIR_TILE) -> PairResult:
    """Score labelled rows in the same way, each with the history before its own event.

    Args:
        model: any model.
        rows: on the model's device.
        pair_tile: pairs scored at a time; it has no effect on the result.

    Raises:
        InputError: if there are no rows, all labels are of one class, or a score or label is NaN.
    """
    if not len(rows):
        raise InputError("there are no rows to evaluate")
    return _judged(model, rows.cut, rows.users, rows.items, rows.labels, pair_tile)


def _judged(
    model: Model, cut: Callable[[Tensor], Batch], users: Tensor, items: Tensor, labels: Tensor, pair_tile: int
) -> PairResult:
    scores = torch.zeros(len(users), device=labels.device)
    with inference(model):
        for rows in torch.arange(len(users), device=labels.device).split(pair_tile):
            scores[rows] = model.score_pairs(cut(rows)).float()
        logits = scores * model.logit_scale()
    metrics = {"auc": auc(scores, labels), "log_loss": log_loss(logits, labels)}
    both = 0
    with contextlib.suppress(InputError):  # One pair a user is a sound data set: gauc is just not there.
        metrics["gauc"], both = grouped_auc(scores, labels, users)
    return PairResult(users.cpu(), items.cpu(), labels.cpu(), scores.cpu(), metrics, both)


def relative_improvement(auc: float, base: float) -> float:
    """Return how much further than the base an area under the ROC curve is from chance, less 1.

    This is RelaImpr; 0.1 is ten per cent.

        (auc − 0.5) / (base − 0.5) − 1

    Source: FIT (Xiong et al., SIGIR 2025), equation 22.

    Raises:
        InputError: if the base is no better than chance, where it is undefined.

    Examples:
        >>> round(relative_improvement(0.9225, 0.8695), 4)
        0.1434
    """
    if not base > 0.5:
        raise InputError(f"RelaImpr is undefined: the base model's AUC is {base}, no better than chance")
    return (auc - 0.5) / (base - 0.5) - 1.0
