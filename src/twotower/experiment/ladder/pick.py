"""Choice of a model of the ladder: by validation alone, and the simpler one where the difference is noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from twotower.evaluation.compare import compare
from twotower.evaluation.result import Result

LEVEL = 0.05
"""A difference with a smaller p-value is no noise."""


class Choice(NamedTuple):
    """Hold the chosen model, and why."""

    name: str
    best: str
    """The one with the best figure, which may be another."""
    p_values: dict[str, float]
    """Of each other model's difference to the best."""
    reason: str


def shown_p(p_value: float | None) -> str:
    """Return a p-value of a table as text; None is the best model itself.

    Examples:
        >>> shown_p(None), shown_p(0.0001), shown_p(0.126)
        ('best', '< 0.001', '0.126')
    """
    return "best" if p_value is None else "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def pick(validation: Mapping[str, Result], metric: str) -> Choice:
    """Take the first model, in the order given, that is not behind the best one by more than noise.

    Each simpler model is asked on its own whether users speak against it: its paired permutation test is not corrected
    for the number of models, since a correction would let more of them pass for as good as the best.

    Args:
        validation: results on the same validation users, simplest model first.
        metric: more is better.

    Raises:
        InputError: if there is none, or they were judged on different users.
    """
    best = max(validation, key=lambda name: validation[name].metrics[metric]) if validation else ""
    table = compare(validation, [metric], reference=best or None)
    p_values = {row.model: row.p_value for row in table.rows if row.p_value is not None}
    name = next(one for one in validation if one == best or p_values[one] >= LEVEL)
    figure = validation[best].metrics[metric]
    if name == best:
        reason = f"{name} has the best {metric} on validation ({figure:.4f})"
        if simpler := [one for one in p_values if list(validation).index(one) < list(validation).index(best)]:
            reason += f", and no simpler model comes as near as noise (p below {LEVEL:g} for {len(simpler)})"
    else:
        reason = (
            f"{name} ({metric} {validation[name].metrics[metric]:.4f} on validation) is simpler than {best} "
            f"({figure:.4f}), and the difference may be noise (p = {p_values[name]:.3f}, {table.users:,} users)"
        )
    return Choice(name, best, p_values, reason)
