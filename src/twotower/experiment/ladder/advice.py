"""Advice after a fit, from what it found: sentences as HTML, all text of the user's escaped."""

from __future__ import annotations

import shlex
from html import escape

from twotower.core.durations import clock
from twotower.experiment.ladder.fitted import Fitted

FEW_USERS = 300
"""Below so many validation users an interval is wide, and nearly every difference may be noise."""


def advice(fitted: Fitted, *, budget: float) -> list[str]:
    """Return sentences on the fit, the most useful first.

    Args:
        fitted: what the fit has left.
        budget: seconds that it was given.
    """
    bundle = shlex.quote(str(fitted.bundle))
    kept = shlex.quote(str(fitted.winner.bundle))
    said = [f"Ask the bundle: {_code(f'twotower recommend {bundle} --user ID -k 10')}"]
    if fitted.stopped:
        said.append("The fit was stopped: the same command with <code>--resume</code> goes on.")
    said.append(
        "The spec under <em>Data</em> is a guess where nothing was said. Correct "
        f"{_code(str(fitted.spec))} and give it with <code>--spec</code>."
    )
    users = len(next(rung.validation for rung in fitted.rungs if rung.validation is not None).users)
    if users < FEW_USERS:
        said.append(
            f"Only {users:,} users have a validation event: differences below the width of the intervals say nothing. "
            "Give more of the log."
        )
    if fitted.choice.name == "popularity":
        said.append(
            "No model is ahead of the same list for everybody. Are user and item the right columns, does a user come "
            "back under one id, and is the log long enough?"
        )
    if short := [rung.name for rung in fitted.rungs if rung.short or "--budget" in rung.left_out]:
        said.append(
            f"Time ended {escape(', '.join(short))} early: a longer <code>--budget</code> than {escape(clock(budget))} "
            "may lift it."
        )
    if not fitted.dataset.is_ordered:
        said.append(
            "The log has no clock: with a time column sequence models take part, and the split is an honest one."
        )
    if not fitted.mask_seen:
        said.append(
            f"{fitted.repeats:.0%} of the next items were seen before, so answers may repeat; where they must not, ask "
            "with <code>--leave-out-seen</code>, and judge so too."
        )
    if not fitted.dataset.schema.item_features:
        said.append("No feature of the items is known: with <code>--items FILE</code> new items can be recommended.")
    said.append(f"Judge a model again: {_code(f'twotower evaluate {kept}')} (it has not learnt the test events).")
    if fitted.winner.parts:
        said.append(
            "The bundle is a mixture: each answer costs two models. The best single one is beside it: "
            f"{_code(f'twotower recommend {shlex.quote(str(fitted.winner.parts[0].bundle))} --user ID -k 10')}"
        )
    return said


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"
