"""``twotower data describe``: the figures of a prepared data set as a table or JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from twotower.cli.options import examples
from twotower.core.terminal import json_text, literal

if TYPE_CHECKING:
    from rich.table import Table

EXAMPLES = examples(
    "twotower data describe runs/ml-100k-prepared",
    "twotower data describe runs/ml-100k-prepared --json",
)


def describe(
    folder: Annotated[Path, typer.Argument(help="A prepared data set.")],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Describe a prepared data set: counts, lengths, time, popularity, features with little information."""
    from rich.console import Console

    from twotower.data.dataset import Dataset
    from twotower.data.describe import describe as figures

    found = figures(Dataset.load(folder))
    if json:
        typer.echo(json_text(found))
        return
    screen = Console(highlight=False)
    if not screen.is_terminal:
        screen.width = 120
    screen.print(_log_table(found))
    screen.print(_lengths_table(found))
    if found["features"]:
        screen.print(_features_table(found["features"]))
    if found["repeats"]["advice"] and found["repeats"]["advice"] not in found["treatments"]:
        screen.print(literal(f"- {found['repeats']['advice']}"))
    for sentence in found["treatments"]:
        screen.print(literal(f"- {sentence}"))


def _log_table(found: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table(title=literal(found["name"]), show_header=False)
    rows = {
        "users": f"{found['users']:,} ({found['single_event_users']:,} with a single event)",
        "items": f"{found['items']:,} ({found['cold_items']:,} without an event)",
        "events": f"{found['events']:,} ({found['positives']:,} positive)",
        "sparsity": f"{found['sparsity']:.4%}",
        "popularity": ", ".join(
            f"top {share} of items: {part:.1%}" for share, part in found["popularity"]["share_of_top"].items()
        )
        + f"; Gini {found['popularity']['gini']:.3f}",
    }
    if found["repeats"]["events"]:
        rows["repeats"] = f"{found['repeats']['share']:.1%} of a user's later events are of items seen before"
    if found["time"] is not None:
        rows["time"] = f"{found['time']['first']} to {found['time']['last']} ({found['time']['days']:,.1f} days)"
    if found["split"]:
        rows["split"] = ", ".join(f"{key} {value}" for key, value in found["split"].items()).removeprefix("kind ")
    for name, text in rows.items():
        table.add_row(name, literal(text))
    return table


def _lengths_table(found: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table("events per", *found["events_per_user"])
    for name in ("user", "item"):
        lengths = found[f"events_per_{name}"]
        table.add_row(name, *(f"{n:,.1f}" if key == "mean" else f"{n:,}" for key, n in lengths.items()))
    return table


def _features_table(features: list[dict[str, Any]]) -> Table:
    from rich.table import Column, Table

    table = Table(Column("feature", no_wrap=True), Column("kind", no_wrap=True))
    for heading in ("values", "known", "unseen", "top value", "finding"):
        table.add_column(heading)
    for entry in features:
        table.add_row(
            literal(f"{entry['side']} {entry['name']}"),
            entry["kind"],
            "" if entry["values"] is None else f"{entry['values']:,}",
            f"{entry['coverage']:.1%}",
            f"{entry['unknown']:.1%}" if "unknown" in entry else "",
            f"{entry['most_frequent']:.1%}",
            entry["finding"],
        )
    return table
