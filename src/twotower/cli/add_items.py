"""``twotower add-items``: new items in a bundle without training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from twotower.cli.options import Device, examples

EXAMPLES = examples(
    "twotower add-items runs/two-tower new.csv",
    "twotower add-items runs/two-tower new.csv --to runs/two-tower-today",
)


def command(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.", show_default=False)],
    items: Annotated[Path, typer.Argument(help="File of items: CSV, TSV, JSON lines or Parquet.", show_default=False)],
    to: Annotated[Path | None, typer.Option(help="Folder of the new bundle; without it, BUNDLE is replaced.")] = None,
    device: Device = "cpu",
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Add new items by their features, without training, to the catalogue and the index."""
    from twotower.cli.answers import print_json
    from twotower.cli.notices import gathered
    from twotower.core.terminal import visible
    from twotower.serving.grow import add_items

    with gathered() as notices:
        done = add_items(bundle, items, to=to, device=device)
    target = bundle if to is None else to
    if json:
        print_json({"bundle": str(target), **done._asdict(), "notices": notices})
        return
    typer.echo(visible(f"{done.added:,} new items, {done.items:,} in all: {target}"))
