"""The page of a tuning: all trials in a table, what mattered as bars, and each key's values against the figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from twotower.core.files import replacing_file
from twotower.experiment.tuning.axes import Axis, Grid, Range, Value
from twotower.experiment.tuning.trials import Trial, best_of

WIDTH, HEIGHT, EDGE = 280, 190, 34

STYLE = """
:root { color-scheme: light dark; --ink: #1b2429; --soft: #6b7a82; --line: #d5dde1; --dot: #00796b; --best: #c2410c;
  --paper: #fff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf0; --soft: #93a4ac; --line: #38464d; --dot: #4db6ac;
  --best: #fb923c; --paper: #14191c; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 62rem; padding: 0 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
td, th { border-bottom: 1px solid var(--line); padding: .25rem .6rem; text-align: right; white-space: nowrap; }
tr.best td { color: var(--best); font-weight: 600; }
.soft { color: var(--soft); }
.charts { display: flex; flex-wrap: wrap; gap: 1rem; }
svg text { fill: var(--ink); font: 11px system-ui, sans-serif; }
svg .axis { stroke: var(--line); }
svg .bar, svg .done { fill: var(--dot); }
svg .rest { fill: none; stroke: var(--dot); }
svg .top { fill: var(--best); }
"""


def write_page(
    path: Path,
    *,
    metric: str,
    trials: Sequence[Trial],
    space: Mapping[str, Axis],
    importance: Mapping[str, float],
    warnings: Sequence[str],
) -> None:
    """Write the page; it needs no network and no script."""
    best = best_of(trials)
    head = "no trial has a figure" if best is None else f"best {best.figure:.4f} in trial {best.number}"
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Tuning</title>",
        f"<style>{STYLE}</style><h1>Tuning by validation {escape(metric)}</h1>",
        f"<p>{len(trials)} trials, {head}. The best of many trials looks better on validation data than it is: the "
        "test of the bundle that is trained from <code>best.toml</code> says how good it is.</p>",
        *(f"<p><strong>At an edge:</strong> {escape(text)}</p>" for text in warnings),
        "<h2>What mattered</h2>",
        _bars(importance) if importance else "<p class='soft'>Too few finished trials to say.</p>",
        "<h2>Values and figures</h2><p class='soft'>Filled: finished; hollow: pruned or cut; the best is marked.</p>",
        "<div class='charts'>" + "".join(_cloud(key, axis, trials) for key, axis in space.items()) + "</div>",
        "<h2>Trials</h2>" + _table(trials, list(space), metric),
    ]
    with replacing_file(path) as partial:
        partial.write_text("\n".join(parts) + "\n</html>\n", encoding="utf-8")


def ordered(trials: Sequence[Trial]) -> list[Trial]:
    """Return the best first; those without a figure last."""
    return sorted(trials, key=lambda trial: (trial.figure is None, -(trial.figure or 0.0), trial.number))


def shown(value: Value) -> str:
    """Return a value as tables have it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _table(trials: Sequence[Trial], keys: Sequence[str], metric: str) -> str:
    best = best_of(trials)
    names = ["trial", metric, *keys, "epochs", "seconds", "state"]
    rows = ["<tr>" + "".join(f"<th>{escape(name)}</th>" for name in names) + "</tr>"]
    for trial in ordered(trials):
        figure = "-" if trial.figure is None else f"{trial.figure:.4f}"
        state = f"{trial.state}: {trial.reason}" if trial.reason else trial.state
        epochs = str(max(trial.curve)) if trial.curve else "-"
        values = [shown(trial.values[key]) for key in keys]
        cells = [str(trial.number), figure, *values, epochs, f"{trial.seconds:.1f}", state]
        kind = " class='best'" if best is not None and trial.number == best.number else ""
        rows.append(f"<tr{kind}>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    return "<table>" + "".join(rows) + "</table>"


def _bars(importance: Mapping[str, float]) -> str:
    most, rows = max(importance.values()) or 1.0, []
    for place, (key, share) in enumerate(importance.items()):
        y = 24 * place
        rows.append(
            f"<text x='210' y='{y + 15}' text-anchor='end'>{escape(key)}</text>"
            f"<rect class='bar' x='218' y='{y + 4}' width='{300 * share / most:.1f}' height='14'/>"
            f"<text x='{224 + 300 * share / most:.1f}' y='{y + 15}'>{share:.2f}</text>"
        )
    described = "Share of the figures' variation that each setting explains"
    return (
        f"<svg role='img' aria-label=\"{described}\" width='580' height='{24 * len(importance) + 4}'>"
        + "".join(rows)
        + "</svg>"
    )


def _cloud(key: str, axis: Axis, trials: Sequence[Trial]) -> str:
    """The figure of each trial over one key's values."""
    judged = [trial for trial in trials if trial.figure is not None]
    best = best_of(trials)
    if best is None:
        return ""
    figures = [trial.figure or 0.0 for trial in judged]
    low, span = min(figures), (max(figures) - min(figures)) or 1.0
    right, bottom = WIDTH - 10, HEIGHT - EDGE
    dots = []
    for trial in sorted(judged, key=lambda one: one.number == best.number):
        x = EDGE + 14 + _place(axis, trial.values[key]) * (right - EDGE - 28)
        y = bottom - 8 - ((trial.figure or 0.0) - low) / span * (bottom - 36)
        kind = "top" if trial.number == best.number else "done" if trial.state == "done" else "rest"
        said = f"trial {trial.number}: {shown(trial.values[key])}, {trial.figure:.4f}"
        dots.append(
            f"<circle class='{kind}' cx='{x:.1f}' cy='{y:.1f}' r='{5 if kind == 'top' else 4}'>"
            f"<title>{escape(said)}</title></circle>"
        )
    ends = (axis.low, axis.high) if isinstance(axis, Range) else (axis.values[0], axis.values[-1])
    return (
        f"<svg role='img' aria-label='{escape(key)} and the figure' width='{WIDTH}' height='{HEIGHT}'>"
        f"<text x='{EDGE}' y='14'>{escape(key)}</text>"
        f"<line class='axis' x1='{EDGE}' x2='{right}' y1='{bottom}' y2='{bottom}'/>"
        f"<line class='axis' x1='{EDGE}' x2='{EDGE}' y1='22' y2='{bottom}'/>"
        f"<text x='{EDGE}' y='{bottom + 16}'>{escape(shown(ends[0]))}</text>"
        f"<text x='{right}' y='{bottom + 16}' text-anchor='end'>{escape(shown(ends[1]))}</text>"
        f"<text x='0' y='{bottom - 4}'>{low:.3f}</text><text x='0' y='32'>{low + span:.3f}</text>"
        + "".join(dots)
        + "</svg>"
    )


def _place(axis: Axis, value: Value) -> float:
    """Where a value stands between the ends of its axis, from 0 to 1."""
    if isinstance(axis, Grid):
        return axis.values.index(value) / max(1, len(axis.values) - 1)
    scale = math.log if axis.log else float
    return (scale(float(value)) - scale(axis.low)) / (scale(axis.high) - scale(axis.low))
