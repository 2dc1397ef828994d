"""Pictures of the tables of codebooks and tokens: recall against the number of codes, and of tokens a user.

Source: Su et al., "Beyond two-tower matching", SIGIR 2023, figures 4 and 5. Ours: every seed is a point, since
a mean over trainings that learned nothing and others says nothing; the line goes through the medians.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from twotower.core.files import replacing_file
from twotower.experiment.run import Run
from twotower.reproduce.figures import draw_figures
from twotower.reproduce.study import Table

METRIC = "recall@50"


class Axis(NamedTuple):
    """Configure what a picture of a table shows."""

    pattern: str
    """Of a variant's name; its group "at" is the place on the axis, "line" (if any) the line's name."""
    words: str
    level: str = ""
    """A variant that is drawn as a level line."""


AXES = {
    "sparcode-codebooks": Axis(r"books_(?P<line>\d+)_codes_(?P<at>\d+)", "codes of a codebook (N)", "no_codes"),
    "sparcode-tokens": Axis(r"tokens_(?P<at>\d+)", "tokens a user (K)"),
}
LINES = {"1": "one codebook", "2": "two codebooks", "": "median of the seeds"}


def points_of(figures: Sequence[Mapping[str, Any]], axis: Axis) -> dict[str, dict[int, list[float]]]:
    """Return recall by seed, by line and place on the axis, from the figures of a data set.

    Examples:
        >>> part = [{"variant": "tokens_4", "metric": "recall@50", "values": [0.3, 0.2]}]
        >>> points_of(part, AXES["sparcode-tokens"])
        {'': {4: [0.3, 0.2]}}
    """
    found: dict[str, dict[int, list[float]]] = {}
    for figure in figures:
        named = re.fullmatch(axis.pattern, figure["variant"])
        if named and figure["metric"] == METRIC:
            parts = named.groupdict()
            found.setdefault(parts.get("line", ""), {})[int(parts["at"])] = list(figure["values"])
    return {line: dict(sorted(points.items())) for line, points in sorted(found.items())}


def draw(figures: Sequence[Mapping[str, Any]], axis: Axis, title: str, target: Path) -> bool:
    """Write the picture as SVG; False without matplotlib (``[plots]``)."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(6.5, 4.2), layout="constrained")
    panel = figure.subplots()
    for name, points in points_of(figures, axis).items():
        (line,) = panel.plot(list(points), [median(values) for values in points.values()], label=LINES[name])
        for at, values in points.items():
            panel.plot([at] * len(values), values, "o", markersize=4, color=line.get_color())
    for one in figures:
        if one["variant"] == axis.level and one["metric"] == METRIC:
            panel.axhline(one["mean"], linestyle="--", color="gray", label="without codes")
    panel.set_xscale("log", base=2)
    ticks = sorted({at for points in points_of(figures, axis).values() for at in points})
    panel.set_xticks(ticks, [str(tick) for tick in ticks])
    panel.minorticks_off()
    panel.set_xlabel(axis.words)
    panel.set_ylabel(METRIC)
    panel.grid(alpha=0.3)
    panel.legend(fontsize="small")
    figure.suptitle(title, fontsize="medium")
    with replacing_file(target) as partial:
        figure.savefig(partial, format="svg", metadata={"Date": None})
    return True


def draw_each(
    table: Table, data: Mapping[str, Path], chosen: Mapping[str, Mapping[str, Run]], folder: Path
) -> list[Path]:
    """Write ``NAME-DATA-parts.svg`` for every data set from ``NAME.json``, and return the files."""
    axis = AXES[table.name]
    return draw_figures(table, folder, "parts", lambda figures, title, target: draw(figures, axis, title, target))
