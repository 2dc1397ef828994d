"""Diagnosis on one screen: the verdict, its reasons, and the figures that decide it, raw and centred side by side."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from twotower.core.terminal import literal, visible
from twotower.diagnosis.diagnose import Diagnosis
from twotower.diagnosis.report.terminal_causes import causes_table
from twotower.diagnosis.table import describe_account

_COLOURS = {"healthy": "bold green", "suspect": "bold yellow", "collapsed": "bold red"}
_BOTH = {
    "mean_cosine": "mean cosine of all pairs",
    "median_cosine": "median",
    "std_cosine": "standard deviation",
    "p10_cosine": "10th percentile",
    "p90_cosine": "90th percentile",
    "entropy": "entropy (bits)",
    "top20_max": "nearest neighbour, mean cosine",
    "top20_min": "20th neighbour, mean cosine",
    "rankme": "RankMe (directions filled)",
    "participation_ratio": "participation ratio",
    "isotropy": "isotropy (1 is even)",
    "uniformity": "uniformity (lower is more even)",
    "hubness": "hubness (skewness)",
    "anti_hubs": "share that is nobody's neighbour",
    "neighbour_stability": "neighbours kept under noise",
    "intrinsic_dimension": "intrinsic dimension",
}
_ONCE = {
    "effective_dimensions": "dimensions above 1 % of the largest",
    "dimensions_for_90_percent": "dimensions for 90 % of variance",
    "principal_dimensions_for_90_percent": "principal axes for 90 % of variance",
    "dead_dimensions": "dimensions that never change",
    "largest_dimension": "dimension that carries most (from 0)",
    "largest_dimension_share": "its share of the squared length",
    "davies_bouldin": "Davies-Bouldin, 5 clusters",
    "silhouette": "silhouette, 5 clusters",
    "duplicates": "repeated vectors",
    "norm_max_over_median": "longest vector over the median",
    "popularity_variance_share": "variance explained by popularity",
    "decay_shape": "decay over the top 20",
}


def screen(diagnosis: Diagnosis) -> RenderableType:
    """Return the diagnosis as something rich prints, within 80 columns."""
    statistics = diagnosis.statistics
    head = Text()
    head.append(diagnosis.verdict.upper(), style=_COLOURS[diagnosis.verdict])
    head.append(f"  {statistics['vectors']:,} vectors of {statistics['dimensions']} dimensions")
    lines: list[RenderableType] = [head]
    if "vector" in diagnosis.read:
        lines.append(literal(describe_account(diagnosis.read)))
    for reason in diagnosis.reasons:
        line = Text(f"  {reason.name}: ", style=_COLOURS[reason.level])
        line.append(
            f"{visible(reason.sentence)} ({_shown(reason.value)}, limit {_shown(reason.threshold)})", style="default"
        )
        lines.append(line)
    if diagnosis.cold:
        line = Text("  cold rows: ", style=_COLOURS[diagnosis.cold["verdict"] or "healthy"])
        line.append(visible(diagnosis.cold["sentence"]), style="default")
        lines.append(line)
    if diagnosis.causes:
        lines += causes_table(diagnosis.causes)
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column("raw", justify="right")
    table.add_column("centred", justify="right")
    for name, words in _BOTH.items():
        table.add_row(words, _shown(statistics[name]), _shown(diagnosis.centred.get(name)))
    for name, words in _ONCE.items():
        if statistics[name] is not None:
            table.add_row(words, _shown(statistics[name]), "")
    lines += [Text(), table]
    lines += [literal(f"note: {note}", style="dim") for note in diagnosis.notes]
    return Group(*lines)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"
    return str(value)
