"""Result of an evaluation: per user and on average, with intervals and slices."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from twotower.core.html import html_table
from twotower.evaluation.slices import Slice
from twotower.metrics.intervals import bootstrap_intervals


@dataclass(frozen=True, repr=False)
class Result:
    """Hold metrics per user (float64, on the CPU): row i of every tensor is user ``users[i]``; users ascend.

    ``metrics`` holds their means, by names such as "ndcg@10"; with a training log also "coverage@10", "gini@10",
    "mean_popularity@10", "popularity_percentile@10" and "top_decile_share@10", which have no value per user.
    """

    split: str
    users: Tensor
    num_items: int
    """Candidates that were ranked for every user."""
    per_user: dict[str, Tensor]
    metrics: dict[str, float]
    truths: int
    """Distinct relevant items, summed over users."""
    seen_truths: int
    """Of these, left out of the answers since the user had seen them: misses."""
    unreachable_truths: int
    """Of these, no candidates (unknown items, or outside the protocol's): misses."""
    slices: dict[str, Slice] = field(default_factory=dict)
    asked: str = ""
    """Hash of users and truths, by which two results are known to answer the same question; empty: not known."""
    mask_seen: bool | None = None
    """Whether what a user had seen was left out of the answers; None: not known."""

    def __repr__(self) -> str:
        shown = [name for name in ("ndcg@10", "recall@10") if name in self.per_user] or list(self.per_user)[:2]
        bounds = self.intervals()
        values = (f"{name} {self.metrics[name]:.4f} [{bounds[name][0]:.3f}, {bounds[name][1]:.3f}]" for name in shown)
        return f"Result({self.split}, {len(self.users):,} users: {', '.join(values)})"

    def _repr_html_(self) -> str:
        """Show every metric that has values per user as a table in a notebook."""
        rows = (
            (name, f"{self.metrics[name]:.4f}", f"{low:.4f} to {high:.4f}")
            for name, (low, high) in self.intervals().items()
        )
        caption = f"{self.split}: {len(self.users):,} users, {self.num_items:,} items"
        return html_table(("metric", "mean", "95 % interval"), rows, caption=caption)

    def intervals(
        self, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
    ) -> dict[str, tuple[float, float]]:
        """Return bootstrap intervals over users, (low, high) of every metric that has values per user."""
        table = torch.stack(list(self.per_user.values()), dim=1)
        bounds = bootstrap_intervals(table, confidence=confidence, resamples=resamples, seed=seed).tolist()
        return {name: (low, high) for name, (low, high) in zip(self.per_user, bounds, strict=True)}

    def bounds(self) -> dict[str, list[float]]:
        """Return the intervals that are finite as plain lists, by metric; none where there are no users."""
        found = self.intervals() if self.per_user and len(self.users) else {}
        return {name: list(pair) for name, pair in found.items() if all(map(isfinite, pair))}

    def to_json(self, *, confidence: float = 0.95) -> dict[str, Any]:
        """Return plain values: split, users, items, metrics, intervals."""
        return {
            "split": self.split,
            "users": len(self.users),
            "items": self.num_items,
            "metrics": dict(self.metrics),
            "intervals": {name: list(bounds) for name, bounds in self.intervals(confidence=confidence).items()},
        }

    def details(self) -> dict[str, Any]:
        """Return plain values of what `to_json` leaves out: how many truths could not be found, and the slices."""
        return {
            "truths": self.truths,
            "seen_truths": self.seen_truths,
            "unreachable_truths": self.unreachable_truths,
            "slices": {name: asdict(part) for name, part in self.slices.items()},
        }


def question(users: Tensor, counts: Tensor, items: Tensor) -> str:
    """Return one hash of who was asked for and which items were to be found.

    Args:
        users: rows, ascending.
        counts: distinct relevant items of each.
        items: these, user by user, ascending within one.
    """
    digest = hashlib.sha256()
    for part in (users, counts, items):
        digest.update(part.contiguous().numpy().tobytes())
    return digest.hexdigest()
