"""Results as tables for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from twotower.core.terminal import literal
from twotower.evaluation.compare import Comparison
from twotower.evaluation.result import Result

if TYPE_CHECKING:
    from rich.table import Table


MANY = 0.1
"""From this share of the truth on, leaving out what was seen decides the figures."""


def result_table(result: Result, *, confidence: float = 0.95, title: str = "") -> Table:
    """Build a table of one row a list length: recall and NDCG with intervals, MRR, and coverage if measured."""
    from rich.table import Table

    bounds = result.intervals(confidence=confidence)
    lengths = sorted({int(name.partition("@")[2]) for name in result.per_user})
    plain = [name for name in ("mrr", "coverage") if f"{name}@{lengths[0]}" in result.metrics]
    caption = f"{_caption(result)}; \\[{confidence:.0%} interval over users]"
    table = Table(
        title=literal(title) if title else None, caption=caption, title_justify="left", caption_justify="left"
    )
    table.add_column(result.split, justify="right")
    for name in ("recall", "ndcg", *plain):
        table.add_column(name, justify="right", no_wrap=True)
    for k in lengths:
        judged = [f"{result.metrics[f'{n}@{k}']:.4f} {_interval(*bounds[f'{n}@{k}'])}" for n in ("recall", "ndcg")]
        table.add_row(f"top {k}", *judged, *(f"{result.metrics[f'{name}@{k}']:.4f}" for name in plain))
    return table


def notices(result: Result, *, of: str = "of those to be found") -> list[str]:
    """Return one sentence for each part of the truth that could not be found; none where all of it could."""
    said = []
    if result.seen_truths:
        many = result.seen_truths >= MANY * result.truths
        todo = " (--include-seen judges with them, evaluation.mask_seen = false trains and serves so)" if many else ""
        said.append(f"{result.seen_truths:,} {of} seen before and so counted as missed{todo}")
    if result.unreachable_truths:
        said.append(f"{result.unreachable_truths:,} {of} not among the items ranked")
    return said


def slice_table(result: Result, metrics: Sequence[str]) -> Table:
    """Build a table of one row a slice: how many users and truths it has, and their mean metrics."""
    from rich.table import Table

    table = Table(title="slices", title_justify="left")
    table.add_column("slice")
    for name in ("users", "truths", *metrics):
        table.add_column(name, justify="right")
    for name, part in result.slices.items():
        values = [f"{part.metrics[metric]:.4f}" if part.users else "" for metric in metrics]
        table.add_row(literal(name.replace("_", " ")), f"{part.users:,}", f"{part.truths:,}", *values)
    return table


def comparison_table(comparison: Comparison, *, title: str = "") -> Table:
    """Build a table of one row a model: mean, interval and p-value under each metric."""
    from rich.table import Table

    metrics = list(dict.fromkeys(row.metric for row in comparison.rows))
    table = Table(
        title=literal(title) if title else None,
        caption=(
            f"{comparison.users:,} users; \\[{comparison.confidence:.0%} interval over users]; "
            f"p: paired permutation test against {comparison.reference}, corrected for the number of models (Holm)"
        ),
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("model")
    for metric in metrics:
        table.add_column(metric, justify="right")
        table.add_column("p", justify="right")
    cells: dict[str, list[str]] = {}
    for row in comparison.rows:
        p_value = "" if row.corrected is None else f"{row.corrected:.4f}"
        cells.setdefault(row.model, []).extend([f"{row.mean:.4f} {_interval(row.low, row.high)}", p_value])
    for model, values in cells.items():
        table.add_row(literal(model), *values)
    return table


def _interval(low: float, high: float) -> str:
    return f"\\[{low:.3f}, {high:.3f}]"


def _caption(result: Result) -> str:
    text = f"{len(result.users):,} users, {result.num_items:,} items ranked for each, {result.truths:,} to be found"
    return "; ".join([text, *notices(result, of="of them")])
