"""Causes in sentences: what became of the feature, what it carried, and what restoring it would do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twotower.diagnosis.causes.drift import ColumnDrift


def reason(cause: Mapping[str, Any], drift: ColumnDrift, now: Mapping[str, Any], limits: Mapping[str, float]) -> str:
    """Return one sentence on ``cause``.

    It is an entry of `twotower.diagnosis.causes.causes.Causes`, before its reason is known.
    """
    parts = [_state(str(cause["kind"]), drift, limits)]
    then, share = cause["training_variance_share"], cause["variance_share"]
    if not then and not share:
        parts.append("it moves no state, in training or now")
    elif then is not None:
        today = "none, as all rows have the same state" if share is None else f"{share:.0%}"
        parts.append(f"it carried {then:.0%} of the state variance in training, now {today}")
    if cause["to_blame"]:
        restored = cause["restored"]
        parts.append(
            f"restored, the mean cosine goes from {_cosine(now)} to {_cosine(restored)} ({restored['verdict']})"
        )
    return "; ".join(parts)


def _state(kind: str, drift: ColumnDrift, limits: Mapping[str, float]) -> str:
    """What is worst about the values, if anything is."""
    wrong = {name: rise for name, rise in drift.rises().items() if rise >= limits[name]}
    before = f"({drift.training_missing:.0%} in training)"
    if "missing" in wrong:
        return "missing in every row " + before if drift.missing == 1.0 else f"missing in {drift.missing:.0%} {before}"
    if "unknown" in wrong:
        if kind == "id":
            return f"{drift.unknown:.0%} of the ids are not in the catalogue"
        return f"{drift.unknown:.0%} of its values were never seen in training ({drift.training_unknown:.0%} then)"
    if "constant" in wrong:
        where = "every row" if drift.constant == 1.0 else f"{drift.constant:.0%} of the rows"
        return f"the same value in {where} ({drift.training_constant:.0%} in training)"
    if "outside" in wrong:
        return f"{drift.outside:.0%} of its values are farther out than any in training"
    if "narrow" in wrong:
        return f"it varies {drift.variance_ratio:.1%} as much as in training"
    if "values" in wrong:
        return (
            f"its values are spread otherwise than in training (Jensen-Shannon {drift.js_divergence:.2f}, "
            f"{drift.js_by_chance:.2f} by chance)"
        )
    return "as in training"


def _cosine(figures: Mapping[str, Any]) -> str:
    value = figures["mean_cosine"]
    return "undefined" if value is None else f"{value:.2f}"
