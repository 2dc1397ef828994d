"""Figures of a table: loss and the validation metric by epoch, one picture a data set, means over seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from twotower.core.files import read_json
from twotower.experiment.run import Run
from twotower.reproduce.study import Table, cells_of


def draw_curves(
    table: Table, data: Mapping[str, Path], chosen: Mapping[str, Mapping[str, Run]], seeds: int, folder: Path
) -> list[Path]:
    """Write ``NAME-DATA.png`` for every data set, and return the files; none without matplotlib (``[plots]``).

    Args:
        table: whose cells are drawn.
        data: prepared folders by the data set's name.
        chosen: the run of every variant by data set, as `run_table` returns it.
        seeds: trainings of each variant.
        folder: of the results.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return []
    written = []
    for name, variants in chosen.items():
        metric = next(iter(variants.values())).training.metric
        figure = Figure(figsize=(12.5, 4.5), layout="constrained")
        panels = figure.subplots(1, 2)
        for variant, run in variants.items():
            cells = cells_of(table, name, data[name], variant, run, seeds)
            curves = [read_json(cell.path(folder))["curves"] for cell in cells]
            for panel, key in zip(panels, ("loss", metric), strict=True):
                epochs, mean, low, high = band(curves, key)
                if len(epochs):
                    (line,) = panel.plot(epochs, mean, label=variant, linewidth=1.5)
                    panel.fill_between(epochs, low, high, alpha=0.15, color=line.get_color(), linewidth=0.0)
        for panel, title in zip(panels, ("training loss (nats)", f"validation {metric}"), strict=True):
            panel.set_xlabel("epoch")
            panel.set_title(title)
            panel.grid(alpha=0.3)
        panels[1].legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
        figure.suptitle(f"{name}: mean and range over {seeds} seeds")
        target = folder / f"{table.name}-{name}.png"
        figure.savefig(target, dpi=110)
        written.append(target)
    return written


def draw_figures(
    table: Table, folder: Path, suffix: str, draw: Callable[[Sequence[Mapping[str, Any]], str, Path], bool]
) -> list[Path]:
    """Draw the figures of ``NAME.json``, one picture ``NAME-DATA-SUFFIX.svg`` a data set, and return the files.

    Args:
        table: whose figures are drawn.
        folder: of the results.
        suffix: of the files.
        draw: (figures, title, file) -> whether it was written.
    """
    written = []
    for name, figures in read_json(folder / f"{table.name}.json")["figures"].items():
        target = folder / f"{table.name}-{name}-{suffix}.svg"
        if draw(figures, f"{table.title}: {name}", target):
            written.append(target)
    return written


def band(
    curves: Sequence[Sequence[Mapping[str, Any]]], key: str
) -> tuple[list[int], np.ndarray, np.ndarray, np.ndarray]:
    """Return the epochs that every seed has a value for, with mean, least and most over seeds.

    Examples:
        >>> first = [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0, "recall@10": 0.5}]
        >>> epochs, mean, low, high = band([first, [{"epoch": 1, "loss": 4.0}]], "loss")
        >>> epochs, mean.tolist(), low.tolist(), high.tolist()
        ([1], [3.0], [2.0], [4.0])
    """
    found = [{record["epoch"]: record[key] for record in curve if key in record} for curve in curves]
    epochs = sorted(set.intersection(*(set(values) for values in found))) if found else []
    values = np.array([[values[epoch] for epoch in epochs] for values in found])
    return epochs, values.mean(axis=0), values.min(axis=0), values.max(axis=0)
