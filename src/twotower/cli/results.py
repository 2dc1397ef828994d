"""How the figures of an evaluation look: a table for people, one JSON object for machines."""

from __future__ import annotations

import json

from rich.console import Console
from rich.table import Table

from twotower.evaluation.result import Result

SHOWN = ("recall", "ndcg", "hit_rate", "mrr", "coverage")


def show_test(result: Result, *, title: str, as_json: bool) -> None:
    """Print a result on standard output."""
    if as_json:
        print(json.dumps(result.to_json(), allow_nan=False))  # noqa: T201
        return
    intervals = result.intervals()
    lengths = sorted({int(name.partition("@")[2]) for name in result.metrics if "@" in name})
    table = Table(title=f"{title}: {result.split} split, {len(result.users)} users, {result.num_items} items")
    table.add_column("k", justify="right")
    names = [name for name in SHOWN if f"{name}@{lengths[0]}" in result.metrics]
    for name in names:
        table.add_column(name, justify="right")
    for k in lengths:
        cells = []
        for name in names:
            key = f"{name}@{k}"
            bounds = intervals.get(key)
            span = "" if bounds is None else f" [dim][{bounds[0]:.3f}, {bounds[1]:.3f}][/dim]"
            cells.append(f"{result.metrics[key]:.4f}{span}")
        table.add_row(str(k), *cells)
    console = Console()
    console.print(table)
    console.print("[dim]In brackets: 95 % intervals over users.[/dim]")
