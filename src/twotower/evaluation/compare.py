"""Comparison of several models on the same users: means, intervals, and whether a difference could be chance."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from twotower.core.errors import InputError, unknown_name
from twotower.core.html import html_table
from twotower.evaluation.result import Result
from twotower.metrics.intervals import holm, paired_permutation

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """Hold the figures of one model under one metric.

    ``p_value`` is that of the difference to the reference, ``corrected`` the same after Holm's correction for all
    models under this metric; both None for the reference.
    """

    model: str
    metric: str
    mean: float
    low: float
    high: float
    difference: float
    p_value: float | None
    corrected: float | None = None


@dataclass(frozen=True, repr=False)
class Comparison:
    """Hold rows in the order of the models given, metric by metric."""

    reference: str
    confidence: float
    users: int
    rows: tuple[Row, ...]

    def __repr__(self) -> str:
        width = max(len(row.model) for row in self.rows)
        lines = [f"Comparison of {len({row.model for row in self.rows})} models on {self.users:,} users"]
        for row in self.rows:
            test = "reference" if row.corrected is None else f"p = {row.corrected:.4f} (Holm)"
            lines.append(f"  {row.model:<{width}}  {row.metric} {row.mean:.4f} [{row.low:.3f}, {row.high:.3f}]  {test}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Show the rows as a table in a notebook."""
        rows = (
            (
                row.model,
                row.metric,
                f"{row.mean:.4f}",
                f"{row.low:.4f} to {row.high:.4f}",
                "reference" if row.corrected is None else f"{row.corrected:.4f}",
            )
            for row in self.rows
        )
        head = ("model", "metric", "mean", "interval", "p (Holm)")
        return html_table(head, rows, caption=f"{self.users:,} users, against {self.reference}")

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def compare(
    results: Mapping[str, Result],
    metrics: Sequence[str],
    *,
    reference: str | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
    permutations: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare models with ``reference`` (None: the first), by bootstrap intervals and paired permutation tests.

    p-values are given plain and corrected for the number of models (Holm), metric by metric. They know nothing of how
    training varies with its seed.

    Raises:
        InputError: if there are no results, they are of different users or truths, or a name is unknown.
    """
    if not results:
        raise InputError("there are no results to compare")
    reference = next(iter(results)) if reference is None else reference
    if reference not in results:
        raise unknown_name("model", reference, results)
    base = results[reference]
    for name, result in results.items():
        if not torch.equal(result.users, base.users):
            raise InputError(
                f"'{name}' and '{reference}' were evaluated on different users, so no pairs can be made; compare "
                "models of the same prepared data and split (a refreshed bundle notes its verdict against the old one)"
            )
        if result.asked and base.asked and result.asked != base.asked:
            raise InputError(f"'{name}' and '{reference}' were to find different items, so no pairs can be made")
        if result.num_items != base.num_items:
            counts = name, result.num_items, reference, base.num_items
            log.warning("'%s' ranks %d items, '%s' %d: among fewer it is easier to be right", *counts)
        if None not in (result.mask_seen, base.mask_seen) and result.mask_seen != base.mask_seen:
            without, with_seen = (name, reference) if result.mask_seen else (reference, name)
            log.warning(
                "'%s' leaves out what a user has seen, '%s' does not: these are two tasks, and the difference is not "
                "that of the models; judge both alike (evaluation.mask_seen of the run)",
                without,
                with_seen,
            )
        for metric in metrics:
            if metric not in result.per_user:
                raise unknown_name(f"metric of '{name}'", metric, result.per_user)
    rows: list[Row] = []
    bounds = {
        name: result.intervals(confidence=confidence, resamples=resamples, seed=seed)
        for name, result in results.items()
    }
    for metric in metrics:
        under: list[Row] = []
        for name, result in results.items():
            test = None
            if name != reference:
                test = paired_permutation(
                    result.per_user[metric], base.per_user[metric], permutations=permutations, seed=seed
                )
            difference, p_value = (0.0, None) if test is None else test
            under.append(Row(name, metric, result.metrics[metric], *bounds[name][metric], difference, p_value))
        corrected = iter(holm([row.p_value for row in under if row.p_value is not None]))
        rows += [row if row.p_value is None else replace(row, corrected=next(corrected)) for row in under]
    return Comparison(reference, confidence, len(base.users), tuple(rows))
