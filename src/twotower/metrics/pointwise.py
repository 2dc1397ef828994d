"""Metrics of labelled pairs: area under the ROC curve (AUC), grouped AUC (GAUC), log loss."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from twotower.core.errors import InputError


class GroupedAUC(NamedTuple):
    """Hold the weighted mean AUC within groups, and how many groups had both classes and so count."""

    value: float
    groups: int


def auc(scores: Float[Tensor, " pairs"], labels: Float[Tensor, " pairs"]) -> float:
    """Return the chance that a positive scores above a negative, ties counting half.

    Labels of at least 0.5 are positive.

    Raises:
        InputError: if all labels are of one class, where it is undefined, or a score or label is NaN.

    Examples:
        >>> auc(torch.tensor([0.1, 0.4, 0.4]), torch.tensor([0.0, 1.0, 0.0]))
        0.75
    """
    positives, negatives, wins = _wins(
        scores, labels, torch.zeros(len(labels), dtype=torch.int64, device=labels.device)
    )
    if not len(wins) or not positives[0] or not negatives[0]:
        raise _one_class(labels)
    return (wins / (positives * negatives)).item()


def grouped_auc(
    scores: Float[Tensor, " pairs"], labels: Float[Tensor, " pairs"], groups: Int[Tensor, " pairs"]
) -> GroupedAUC:
    """Return the grouped AUC (GAUC): the AUC within each group (a user), averaged by number of pairs.

    Groups of one class have no AUC and are left out.

    Source: Zhou et al., Deep Interest Network, KDD 2018, section 6.2, with impressions as weights.

    Raises:
        InputError: if no group has both classes, or a score or label is NaN.
    """
    positives, negatives, wins = _wins(scores, labels, groups)
    counted = (positives > 0) & (negatives > 0)
    if not bool(counted.any()):
        raise InputError("grouped AUC is undefined: no user has both a positive and a negative pair")
    weights = (positives + negatives)[counted]
    values = wins[counted] / (positives * negatives)[counted]
    return GroupedAUC(((values * weights).sum() / weights.sum()).item(), int(counted.sum()))


def log_loss(logits: Float[Tensor, " pairs"], labels: Float[Tensor, " pairs"]) -> float:
    """Return the mean binary cross-entropy in nats a pair: −y log σ(logit) − (1 − y) log(1 − σ(logit)).

    Raises:
        InputError: if there are no pairs, or a logit or label is NaN.
    """
    if not len(logits) or bool(logits.isnan().any()) or bool(labels.isnan().any()):
        raise InputError("log loss is undefined: there are no pairs, or the model's logits or the labels hold NaN")
    return F.binary_cross_entropy_with_logits(logits.double(), labels.double()).item()


def _wins(scores: Tensor, labels: Tensor, groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Positives, negatives and pairs of both where the positive is above (a tie: half), of each group: float64."""
    if bool(scores.isnan().any()):
        raise InputError("AUC is undefined: the model's scores hold NaN")
    if bool(labels.isnan().any()):
        raise InputError("AUC is undefined: labels hold NaN; leave out pairs that have no label")
    names, group = groups.unique(return_inverse=True)
    order = scores.argsort(stable=True)
    order = order[group[order].argsort(stable=True)]
    scores, group, positive = scores[order], group[order], (labels[order] >= 0.5).double()

    def total(values: Tensor, index: Tensor, size: int) -> Tensor:
        return values.new_zeros(size).index_add_(0, index, values)

    changed = torch.ones(len(scores), dtype=torch.bool, device=scores.device)
    changed[1:] = (scores[1:] != scores[:-1]) | (group[1:] != group[:-1])
    level = changed.cumsum(0) - 1
    levels = int(changed.sum())
    level_group = group[changed]
    level_positive, level_negative = total(positive, level, levels), total(1.0 - positive, level, levels)
    positives, negatives = total(positive, group, len(names)), total(1.0 - positive, group, len(names))
    below = level_negative.cumsum(0) - level_negative - (negatives.cumsum(0) - negatives)[level_group]
    wins = total(level_positive * (below + 0.5 * level_negative), level_group, len(names))
    return positives, negatives, wins


def _one_class(labels: Tensor) -> InputError:
    if not len(labels):
        return InputError("AUC is undefined: there are no labelled pairs")
    kind = "positive" if bool(labels[0] >= 0.5) else "negative"
    return InputError(f"AUC is undefined: all {len(labels)} labels are {kind}; it needs both classes")
