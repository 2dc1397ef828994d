"""Choice of the one open number of a closed form on the validation split: up or down by steps while that helps."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch import Tensor

from twotower.data.log import Log
from twotower.data.split import Split
from twotower.models.base import Model, OffersChoices

MOST_TRIES = 12
"""Values that are tried at most; each way up or down a ladder of √10 then covers five powers of ten."""

log = logging.getLogger(__name__)


@runtime_checkable
class LimitsTries(Protocol):
    """End the search before it would be late; a callback of a run that bears this is asked."""

    def tried(self) -> bool:
        """Handle a finished try; return whether another as long as this one would end too late."""
        ...


def fit_closed_form(
    model: OffersChoices,
    split: Split,
    learnt: Log,
    validate: Callable[[Model], float],
    *,
    metric: str,
    limit: LimitsTries | None = None,
) -> None:
    """Fit ``model`` with the value of its open setting that is best on validation.

    The ladder is climbed from the model's first choice as long as a step up, or else down, makes the metric better, so
    the value that is kept has a worse one on either side. Where two are equal the first that was tried stays.

    Args:
        model: undecided as yet.
        split: its ``train`` is fitted, its validation judged; without validation events the first choice is taken.
        learnt: what the model is to learn in the end.
        validate: the metric of a fitted model; more is better.
        metric: its name, for the log.
        limit: ends the search early, with the best value so far.
    """
    name, value = model.choice, model.first_choice(split.train)
    if not split.validation.truth.num_events:
        log.info("%s: no validation events to choose %s by; %g is taken for the log's size", _name(model), name, value)
        model.settle(value)
        model.fit_log(learnt)
        return
    best: dict[str, Tensor] = {}
    top = float("-inf")

    def score(tried: float) -> float:
        nonlocal best, top
        model.settle(tried)
        model.fit_log(split.train)
        result = validate(model)
        if learnt is split.train and result > top:
            best, top = {key: tensor.detach().clone() for key, tensor in model.state_dict().items()}, result
        return result

    value = climbed(model, value, score, metric=metric, limit=limit)
    model.settle(value)
    if best:
        model.load_state_dict(best)
    else:
        model.fit_log(learnt)


def climbed(
    model: OffersChoices,
    first: float,
    score: Callable[[float], float],
    *,
    metric: str,
    limit: LimitsTries | None = None,
) -> float:
    """Return the best value of a model's open setting: steps up from ``first``, or else down, while they help.

    Args:
        model: whose ladder is climbed.
        first: the value that is tried first.
        score: the metric with a value; more is better.
        metric: its name, for the log.
        limit: ends the search early, after the first value at the earliest.
    """
    found = {first: score(first)}
    value = first
    over = limit is not None and limit.tried()
    for way in (1, -1):
        step = way
        while len(found) < MOST_TRIES and not over:
            tried = float(f"{first * model.ladder**step:.3g}")
            found[tried] = score(tried)
            over = limit is not None and limit.tried()
            if found[tried] <= found[value]:
                break
            value, step = tried, step + way
        if value != first:
            break
    tries = ", ".join(f"{tried:g}: {found[tried]:.4f}" for tried in sorted(found))
    ended = "; no time for more" if over else ""
    log.info("%s: %s = %g by validation %s (%s)%s", _name(model), model.choice, value, metric, tries, ended)
    return value


def _name(model: OffersChoices) -> str:
    return type(model).__name__
