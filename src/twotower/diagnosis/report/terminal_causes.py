"""Causes on one screen: a line of figures and a sentence for each feature that matters."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from twotower.core.terminal import literal, visible

SHOWN = 20
"""Features in the table."""


def causes_table(causes: list[dict[str, Any]]) -> list[RenderableType]:
    """Return the table of causes: harmful ones in red, those that drifted without harm in yellow."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False)
    table.add_column("feature", no_wrap=True, overflow="ellipsis", max_width=20)
    for name in ("missing", "same", "unknown", "variance", "in training", "restored"):
        table.add_column(name, justify="right", no_wrap=True)
    for cause in causes[:SHOWN]:
        style = "bold red" if cause["to_blame"] else "yellow" if cause["drifted"] else ""
        table.add_row(
            literal(cause["feature"], style),
            *(_percent(cause[name]) for name in ("missing", "constant", "unknown", "variance_share")),
            _percent(cause["training_variance_share"]),
            cause["restored"]["verdict"],
        )
    blamed = [cause for cause in causes if cause["to_blame"]]
    lines: list[RenderableType] = [Text()]
    lines.append(
        literal(f"to blame: {', '.join(cause['feature'] for cause in blamed)}", style="bold red")
        if blamed
        else Text("no feature is to blame", style="bold")
    )
    for cause in causes:
        if cause["to_blame"] or cause["drifted"]:
            line = literal(f"  {cause['feature']}: ", style="bold red" if cause["to_blame"] else "yellow")
            line.append(visible(cause["reason"]), style="default")
            lines.append(line)
    lines += [Text(), table]
    if len(causes) > SHOWN:
        lines.append(Text(f"and {len(causes) - SHOWN} more features: --json lists them all", style="dim"))
    return lines


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"
