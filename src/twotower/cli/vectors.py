"""``twotower vectors``: the vectors of a bundle as a Parquet file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from twotower.cli.options import Device, examples

EXAMPLES = examples(
    "twotower vectors runs/sasrec --to items.parquet",
    "twotower vectors runs/sasrec --to users.parquet --side users --atlas",
)


def command(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.", show_default=False)],
    to: Annotated[Path, typer.Option(help="The Parquet file to write.", show_default=False)],
    side: Annotated[str, typer.Option(help="items or users.")] = "items",
    atlas: Annotated[
        bool, typer.Option("--atlas", help="Add x, y and neighbors, for Apple's embedding-atlas.")
    ] = False,
    device: Device = "cpu",
) -> None:
    """Write ids, vectors and raw columns, one row an item or user, for a vector store or a map."""
    from twotower.core.terminal import visible
    from twotower.serving.retriever import load
    from twotower.serving.vectors import write_vectors

    number = write_vectors(load(bundle, device), to, side=side, atlas=atlas)
    typer.echo(visible(f"{number:,} {side} in {to}"))
    if atlas:
        typer.echo(visible(f"open it with: embedding-atlas {to} --x x --y y --neighbors neighbors"))
