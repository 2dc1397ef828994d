"""Picture of the table of sparsity: recall and time of a search against the mean length of a list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from twotower.core.files import replacing_file
from twotower.experiment.run import Run
from twotower.reproduce.figures import draw_figures
from twotower.reproduce.study import Table

SHOWN = {"recall@50": "recall@50", "microseconds": "processor time of a search (µs)"}
Line = list[tuple[float, float]]
"""Mean length of a list and a value, the shortest lists first."""


def lines_of(figures: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Line]:
    """Return a metric against the mean length of a list by kind of lists, from the figures of a data set.

    Examples:
        >>> means = {"mean_list": 78.0, "recall@50": 0.3}
        >>> part = [{"variant": "gate/98 %", "metric": name, "mean": mean} for name, mean in means.items()]
        >>> lines_of(part, "recall@50")
        {'gate, best of each code': [(78.0, 0.3)]}
    """
    values: dict[str, dict[str, float]] = {}
    for figure in figures:
        if "/" in figure["variant"]:
            values.setdefault(figure["variant"], {})[figure["metric"]] = figure["mean"]
    lines: dict[str, Line] = {}
    for variant, found in values.items():
        row, view = variant.split("/")
        how = "one bias" if view.startswith("one bias") else "best of each code"
        if metric in found and "mean_list" in found:
            lines.setdefault(f"{row}, {how}", []).append((found["mean_list"], found[metric]))
    return {name: sorted(line) for name, line in lines.items()}


def draw(figures: Sequence[Mapping[str, Any]], title: str, target: Path) -> bool:
    """Write the picture as SVG; False without matplotlib (``[plots]``)."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(12.0, 4.5), layout="constrained")
    for panel, (metric, words) in zip(figure.subplots(1, 2), SHOWN.items(), strict=True):
        for name, line in lines_of(figures, metric).items():
            lengths, found = zip(*line, strict=True)
            panel.plot(lengths, found, marker="o", markersize=4, label=name)
        panel.set_xscale("log")
        panel.set_xlabel("items of a list, mean")
        panel.set_title(words)
        panel.grid(alpha=0.3)
    figure.axes[0].legend(fontsize="small")
    figure.suptitle(title)
    with replacing_file(target) as partial:
        figure.savefig(partial, format="svg", metadata={"Date": None})
    return True


def draw_each(
    table: Table, data: Mapping[str, Path], chosen: Mapping[str, Mapping[str, Run]], folder: Path
) -> list[Path]:
    """Write ``NAME-DATA-lists.svg`` for every data set from ``NAME.json``, and return the files."""
    return draw_figures(table, folder, "lists", draw)
