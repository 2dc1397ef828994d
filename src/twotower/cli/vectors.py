"""``twotower vectors``: the vectors of a bundle as a Parquet file, or as a vector store loads them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from twotower.cli.options import Device, examples
from twotower.core.errors import InputError

EXAMPLES = examples(
    "twotower vectors runs/sasrec --to items.parquet",
    "twotower vectors runs/sasrec --for pgvector --to items.sql",
    "twotower vectors runs/sasrec --for opensearch --to items.ndjson",
    "twotower vectors runs/sasrec --to users.parquet --side users --atlas",
)


def command(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.", show_default=False)],
    to: Annotated[Path, typer.Option(help="The file to write: *.parquet, or as --for says.", show_default=False)],
    side: Annotated[str, typer.Option(help="items or users.")] = "items",
    atlas: Annotated[
        bool, typer.Option("--atlas", help="Add x, y and neighbors, for Apple's embedding-atlas.")
    ] = False,
    store: Annotated[
        str | None,
        typer.Option(
            "--for",
            help="The store that loads it: qdrant or milvus (*.jsonl), opensearch (*.ndjson), pgvector (*.sql).",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str, typer.Option(help="Of the collection (milvus) or table (pgvector); default: items or users.")
    ] = "",
    device: Device = "cpu",
) -> None:
    """Write ids, vectors and raw columns, one row an item or user, for a vector store or a map."""
    from twotower.core.terminal import visible
    from twotower.serving.retriever import load
    from twotower.serving.vectors import write_vectors

    if store is not None:
        from twotower.serving.stores.write import write_for_store

        if atlas:
            raise InputError("--atlas adds columns to a Parquet file: leave it or --for out")
        made = write_for_store(load(bundle, device), to, store=store, side=side, name=name)
        typer.echo(visible(f"{made.rows:,} {side} of {made.dim:,} numbers in {to}, to be found by inner product"))
        return
    if name:
        raise InputError("--name goes with --for")
    number = write_vectors(load(bundle, device), to, side=side, atlas=atlas)
    typer.echo(visible(f"{number:,} {side} in {to}"))
    if atlas:
        typer.echo(visible(f"open it with: embedding-atlas {to} --x x --y y --neighbors neighbors"))
