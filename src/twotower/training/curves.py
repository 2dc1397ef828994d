"""Draws the loss and the validation metric of a training by epoch: an SVG file beside its log, with no library."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from twotower.core.files import replacing_file
from twotower.diagnosis.report.charts import BOTTOM, HEIGHT, TOP, WIDTH, Axes
from twotower.models.base import Model
from twotower.training.callbacks import EpochRecord, Silent

EVERY = 2.0
"""Seconds at least between two drawings while a training goes on; the last one is always made."""
TITLE = 34
"""Height of the title above the charts."""
DOTS = 60
"""Points up to which each is a dot that shows its value on hover."""
STYLE = """
svg { font: 12px system-ui, sans-serif; }
.paper { fill: #ffffff; }
text { fill: #24292f; }
.title { font-size: 14px; font-weight: 600; }
.grid { stroke: #d8dee4; }
.axis { stroke: #57606a; }
.line { fill: none; stroke: #0f766e; stroke-width: 2; }
.dot { fill: #0f766e; }
.mark { stroke: #9a3412; stroke-dasharray: 4 3; }
.marked { fill: #9a3412; }
@media (prefers-color-scheme: dark) {
  .paper { fill: #0d1117; }
  text { fill: #e6edf3; }
  .grid { stroke: #30363d; }
  .axis { stroke: #8b949e; }
  .line { stroke: #2dd4bf; }
  .dot { fill: #2dd4bf; }
  .mark { stroke: #fdba74; }
  .marked { fill: #fdba74; }
}
"""
"""Colours for paper and screens, light and dark."""


class Curves(Silent):
    """Draw a picture of the log of a training, of the same name, as the training goes on.

    It must stand after the callback that writes the log.

    Args:
        path: the log, with one JSON object an epoch.
        metric: the validation metric that picks the epoch.
    """

    def __init__(self, path: Path, metric: str) -> None:
        self.path, self.metric, self.drawn = path, metric, -math.inf

    def epoch_done(self, record: EpochRecord, model: Model) -> None:
        """Draw, unless that was done just before."""
        if time.monotonic() - self.drawn >= EVERY:
            self.finished()

    def finished(self) -> None:
        """Draw what the log holds; an empty one leaves no picture."""
        records = [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
        if records:
            with replacing_file(self.path.with_suffix(".svg")) as partial:
                partial.write_text(curves_svg(records, self.metric), encoding="utf-8")
        self.drawn = time.monotonic()


def curves_svg(records: Sequence[Mapping[str, Any]], metric: str) -> str:
    """Return the picture of a training's records: loss, and the metric where it was validated, by epoch.

    Examples:
        >>> one = curves_svg([{"epoch": 1, "loss": 2.5, "auc": 0.7}], "auc")
        >>> one.count("<polyline"), "validation auc" in one
        (2, True)
    """
    losses = [(record["epoch"], record["loss"]) for record in records]
    judged = [(record["epoch"], record[metric]) for record in records if math.isfinite(record.get(metric, math.nan))]
    charts = [_chart(losses, "training loss")]
    title = f"epoch {losses[-1][0]}, loss {losses[-1][1]:.4g}"
    if judged:
        best = max(judged, key=lambda point: point[1])  # the first of equals, as training takes it
        charts.append(_chart(judged, f"validation {metric}", best))
        title += f", best {metric} {best[1]:.4g} in epoch {best[0]}"
    width, height = WIDTH * len(charts), HEIGHT + TITLE
    placed = "".join(
        chart.replace("<svg ", f'<svg x="{WIDTH * place}" y="{TITLE}" width="{WIDTH}" height="{HEIGHT}" ', 1)
        for place, chart in enumerate(charts)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img"><title>{escape(title)}</title><style>{STYLE}</style>'
        f'<rect class="paper" width="{width}" height="{height}"/>'
        f'<text class="title" x="{width / 2}" y="22" text-anchor="middle">{escape(title)}</text>{placed}</svg>\n'
    )


def _chart(points: Sequence[tuple[int, float]], label: str, best: tuple[int, float] | None = None) -> str:
    """One line by epoch, with the best point marked."""
    epochs, values = [epoch for epoch, _ in points], [value for _, value in points]
    ticks = nice_ticks(min(values), max(values))
    axes = Axes((min(epochs), max(*epochs, min(epochs) + 1)), (ticks[0], ticks[-1]))
    axes.line(points, "line")
    if len(points) <= DOTS:
        for epoch, value in points:
            axes.add(
                f'<circle class="dot" cx="{axes.x(epoch):.1f}" cy="{axes.y(value):.1f}" r="2.5">'
                f"<title>epoch {epoch}: {value:.6g}</title></circle>"
            )
    if best is not None:
        _mark(axes, *best)
    described = f"{label} by epoch: from {values[0]:.4g} to {values[-1]:.4g}"
    across = [tick for tick in nice_ticks(min(epochs), max(epochs)) if tick == round(tick)]
    inside = {tick: f"{tick:g}" for tick in across if min(epochs) <= tick <= max(epochs)}
    return axes.svg(
        described, inside or {float(epochs[0]): str(epochs[0])}, {t: f"{t:g}" for t in ticks}, "epoch", label
    )


def _mark(axes: Axes, epoch: int, value: float) -> None:
    """A dashed upright line at the best epoch, named at its foot: the curve is at its head."""
    place = axes.x(epoch)
    side, shift = ("end", -5) if place > WIDTH / 2 else ("start", 5)
    axes.add(
        f'<line class="mark" x1="{place:.1f}" x2="{place:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        f'<text class="marked" x="{place + shift:.1f}" y="{HEIGHT - BOTTOM - 7}" text-anchor="{side}">'
        f"best {value:.4g}</text>"
    )


def nice_ticks(low: float | int, high: float | int, most: int = 6) -> list[float]:
    """Return multiples of 1, 2 or 5 times a power of ten that enclose a span; of one value, a span around it.

    Examples:
        >>> nice_ticks(0.0, 9.3), nice_ticks(2.0, 2.0, most=3)
        ([0.0, 2.0, 4.0, 6.0, 8.0, 10.0], [1.0, 2.0, 3.0])
    """
    if not high - low > 1e-9 * max(abs(low), abs(high), 1e-9):
        room = abs(low) / 2 or 1.0
        low, high = low - room, high + room
    raw = (high - low) / (most - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(digit * power for digit in (1, 2, 5, 10) if digit * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]
