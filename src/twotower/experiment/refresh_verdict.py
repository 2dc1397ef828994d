"""Verdict on a refresh: the new bundle beside the old one, on the newest days, on which neither was trained."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from twotower.evaluation.result import Result
from twotower.experiment.refresh_drift import Drift
from twotower.metrics.intervals import paired_permutation

SURE = 0.05
"""A metric that is lower with a p-value below this makes the new bundle worse."""
LEAST_VARIETY = 0.5
"""Share of the items that the old lists held: with fewer, the new bundle is worse."""
FEW_USERS = 50
"""Below so many users the test would see large differences alone: a warning says so."""


@dataclass(frozen=True)
class Verdict:
    """Hold how a refreshed bundle did beside the old one on the same users and events."""

    metric: str
    users: int
    old: float
    new: float
    p_value: float
    """Of the difference, by a paired permutation test over users."""
    old_items: int
    """Items in the old bundle's lists, over all users, at the length of the metric."""
    new_items: int
    old_space: str | None
    """What the check of its item vectors said of the old bundle; None: it has none."""
    new_space: str | None
    drifts: list[Drift] = field(default_factory=list)

    @property
    def reasons(self) -> list[str]:
        """Return why the new bundle is worse, a sentence each; empty: it is not."""
        found = []
        if self.new < self.old and self.p_value < SURE:
            found.append(
                f"{self.metric} is lower: {self.new:.4f} instead of {self.old:.4f} ({self.users:,} users, "
                f"p = {self.p_value:.4f})"
            )
        if self.new_space == "collapsed" and self.old_space != "collapsed":
            found.append(f"its item vectors have collapsed (before: {self.old_space or 'not checked'})")
        if self.new_items < LEAST_VARIETY * self.old_items:
            found.append(f"its lists hold {self.new_items:,} items instead of {self.old_items:,}")
        return found

    @property
    def worse(self) -> bool:
        """Return whether the old bundle should stay."""
        return bool(self.reasons)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        values = asdict(self) | {"drifts": [drift._asdict() for drift in self.drifts]}
        return values | {"worse": self.worse, "reasons": self.reasons}


def verdict(
    old: Result, new: Result, metric: str, *, spaces: tuple[str | None, str | None], drifts: list[Drift]
) -> Verdict:
    """Compare two results on the same users.

    Args:
        old: of the old bundle, among the items that it knows.
        new: of the new one, among all.
        metric: such as "ndcg@10".
        spaces: verdicts of the check of item vectors, old and new.
        drifts: for the record.
    """
    p_value = paired_permutation(new.per_user[metric], old.per_user[metric])[1]
    coverage = f"coverage@{metric.partition('@')[2]}"
    held = [round(one.metrics[coverage] * one.num_items) for one in (old, new)]
    return Verdict(
        metric, len(new.users), old.metrics[metric], new.metrics[metric], p_value, held[0], held[1], *spaces, drifts
    )
