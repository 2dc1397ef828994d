"""``twotower vectors``: the vectors of a bundle as a Parquet file, or as a vector store loads them."""

from __future__ import annotations

from typing import Annotated

import typer

from twotower.cli.options import Device, Engine, Workers, examples
from twotower.core.errors import InputError

EXAMPLES = examples(
    "twotower vectors runs/sasrec --to items.parquet",
    "twotower vectors runs/sasrec --for pgvector --to items.sql",
    "twotower vectors runs/sasrec --for opensearch --to items.ndjson",
    "twotower vectors runs/sasrec --to users.parquet --side users --atlas",
    "twotower vectors runs/sasrec --to users --side users --engine local --workers 4",
)


def command(
    bundle: Annotated[str, typer.Argument(help="Folder of the bundle, or its address.", show_default=False)],
    to: Annotated[
        str,
        typer.Option(
            help="The file to write: *.parquet, or as --for says; or a folder or address for parts.", show_default=False
        ),
    ],
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
    engine: Engine = "local",
    workers: Workers = 1,
    device: Device = "cpu",
) -> None:
    """Write ids, vectors and raw columns, one row an item or user, for a vector store or a map."""
    from twotower.core.address import shown_address
    from twotower.core.engines.choose import open_engine
    from twotower.core.terminal import visible
    from twotower.serving.loaded import load_from
    from twotower.serving.vectors import write_vectors

    if store is not None:
        from twotower.serving.stores.write import write_for_store

        if atlas:
            raise InputError("--atlas adds columns to a Parquet file: leave it or --for out")
        if engine != "local" or workers != 1:
            raise InputError("--for writes one file in one process: leave --engine and --workers out")
        made = write_for_store(load_from(bundle, device), to, store=store, side=side, name=name)
        typer.echo(visible(f"{made.rows:,} {side} of {made.dim:,} numbers in {to}, to be found by inner product"))
        return
    if name:
        raise InputError("--name goes with --for")
    with open_engine(engine, workers) as runs:
        alone = engine == "local" and workers == 1
        retriever = load_from(bundle, device)
        number = write_vectors(retriever, to, side=side, atlas=atlas, engine=None if alone else runs)
    typer.echo(visible(f"{number:,} {side} in {shown_address(to)}"))
    if atlas:
        typer.echo(visible(f"open it with: embedding-atlas {to} --x x --y y --neighbors neighbors"))
