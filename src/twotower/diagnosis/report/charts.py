"""Charts of a report as inline SVG: histogram of similarities, variance spectrum, decay of similarity with rank.

Colours come from the classes of page.css, so that a chart follows the theme.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 420, 260
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 14, 40
LEAST_SHARE = 1e-6
"""Below this share of the variance an axis is drawn on the floor of the chart."""


class Axes:
    """Map values to places in the chart, and draw frame, ticks and labels around what ``add`` collects."""

    def __init__(self, x: tuple[float | int, float | int], y: tuple[float | int, float | int]) -> None:
        self._x, self._y = x, y
        self._parts: list[str] = []

    def x(self, value: float | int) -> float:
        return _place(value, self._x, LEFT, WIDTH - RIGHT)

    def y(self, value: float | int) -> float:
        return _place(value, self._y, HEIGHT - BOTTOM, TOP)

    def add(self, part: str) -> None:
        self._parts.append(part)

    def line(self, points: Sequence[tuple[float | int, float | int]], style: str) -> None:
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        self.add(f'<polyline class="{style}" points="{path}"/>')

    def mark(self, value: float | int, label: str) -> None:
        """Draw a dashed upright line with a label on the side where there is space."""
        place = self.x(value)
        side, shift = ("end", -5) if place > WIDTH / 2 else ("start", 5)
        self.add(
            f'<line class="mark" x1="{place:.1f}" x2="{place:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
            f'<text class="marked" x="{place + shift:.1f}" y="{TOP + 11}" text-anchor="{side}">{escape(label)}</text>'
        )

    def svg(
        self, described: str, x_ticks: dict[float, str], y_ticks: dict[float, str], x_label: str, y_label: str
    ) -> str:
        bottom = HEIGHT - BOTTOM
        ticks = "".join(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{self.y(at):.1f}" y2="{self.y(at):.1f}"/>'
            f'<text x="{LEFT - 6}" y="{self.y(at) + 4:.1f}" text-anchor="end">{escape(text)}</text>'
            for at, text in y_ticks.items()
        ) + "".join(
            f'<text x="{self.x(at):.1f}" y="{bottom + 16}" text-anchor="middle">{escape(text)}</text>'
            for at, text in x_ticks.items()
        )
        return (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(described)}">{ticks}'
            f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>{"".join(self._parts)}'
            f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>'
            f'<text x="13" y="{(TOP + bottom) / 2}" text-anchor="middle" '
            f'transform="rotate(-90 13 {(TOP + bottom) / 2})">{escape(y_label)}</text></svg>'
        )


def histogram(counts: Sequence[int], low: float, high: float, mean: float | None) -> str:
    """Draw the share of pairs by cosine; a bar's title gives its range and share."""
    total = sum(counts)
    shares = [count / total for count in counts]
    top = max(shares)
    axes = Axes((low, high), (0.0, top * 1.12))
    step = (high - low) / len(counts)
    for number, share in enumerate(shares):
        if share > 0:
            start, end = low + number * step, low + (number + 1) * step
            height = max(axes.y(0.0) - axes.y(share), 0.5)
            axes.add(
                f'<rect class="bar" x="{axes.x(start):.2f}" width="{axes.x(end) - axes.x(start):.2f}" '
                f'y="{axes.y(0.0) - height:.1f}" height="{height:.1f}">'
                f"<title>{start:.2f} to {end:.2f}: {share:.2%} of pairs</title></rect>"
            )
    described = "Histogram of the cosines of all pairs"
    if mean is not None:
        axes.mark(mean, f"mean {mean:.2f}")
        described += f"; the mean is {mean:.3f}"
    ticks = {low + (high - low) * part / 4: f"{low + (high - low) * part / 4:g}" for part in range(5)}
    return axes.svg(described, ticks, {top: f"{top:.1%}", top / 2: f"{top / 2:.1%}"}, "cosine", "share of pairs")


def spectrum(shares: Sequence[float], enough: int | None) -> str:
    """Draw the share of variance on each principal axis, largest first, log scale; ``enough`` axes hold 90 %."""
    drawn = [max(share, LEAST_SHARE) for share in shares]
    low = math.floor(math.log10(min(drawn)))
    axes = Axes((1, max(len(drawn), 2)), (low, 0))
    points = [(number, math.log10(share)) for number, share in enumerate(drawn, 1)]
    axes.line(points, "line first")
    if len(points) <= 64:
        for (number, height), share in zip(points, shares, strict=True):
            axes.add(
                f'<circle class="dot first" cx="{axes.x(number):.1f}" cy="{axes.y(height):.1f}" r="2.5">'
                f"<title>axis {number}: {share:.3%}</title></circle>"
            )
    if enough is not None:
        axes.mark(enough, f"90 % within {enough}")
    described = f"Variance by principal axis, log scale: the first of {len(shares)} holds {shares[0]:.1%}"
    decades = {float(power): f"{10.0 ** (power + 2):g}%" for power in range(low, 1)}
    return axes.svg(described, _whole(len(drawn)), decades, "principal axis", "share of variance")


def decay(curves: Sequence[tuple[str, Sequence[float]]]) -> str:
    """Draw cosine against rank for up to three named curves that differ in colour and dash."""
    values = [value for _, curve in curves for value in curve]
    low, high = min(values), max(values)
    room = max(high - low, 1e-3) * 0.08
    ranks = max(len(curve) for _, curve in curves)
    axes = Axes((1, max(ranks, 2)), (low - room, high + room))
    for (_, curve), style in zip(curves, ("first", "second", "third"), strict=False):
        axes.line(list(enumerate(curve, 1)), f"line {style}")
    digits = 2 if high - low > 0.05 else 4
    ticks = {low + (high - low) * part / 3: f"{low + (high - low) * part / 3:.{digits}f}" for part in range(4)}
    described = "Cosine from the first neighbour to the last: " + ", ".join(
        f"{name} from {curve[0]:.3f} to {curve[-1]:.3f}" for name, curve in curves
    )
    return axes.svg(described, _whole(ranks), ticks, "rank of the neighbour", "cosine")


def _whole(count: int) -> dict[float, str]:
    """The first number, and the multiples of 1, 2 or 5 times a power of ten that leave four to ten ticks."""
    steps = (digit * 10**power for power in range(9) for digit in (1, 2, 5))
    step = next(step for step in steps if count <= 7 * step)
    return {float(number): str(number) for number in [1, *range(step, count + 1, step)]}


def _place(value: float | int, span: tuple[float | int, float | int], start: int, end: int) -> float:
    low, high = span
    return start + (end - start) * (value - low) / (high - low)
