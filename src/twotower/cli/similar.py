"""``twotower similar``: the items nearest to a known item, or to each row of a file of items."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from twotower.cli.options import Device, Filter, Only, examples

EXAMPLES = examples(
    "twotower similar runs/sasrec --item 50 -k 5",
    "twotower similar runs/sasrec --item 50 --filter \"year >= 1990 and not genres contains 'Horror'\"",
    "twotower similar runs/sasrec --items sessions.csv --among file --csv nearest.csv",
)

SHOWN = 3
"""Rows of a file whose neighbours are shown to a person."""


def command(
    bundle: Annotated[Path, typer.Argument(help="Folder that 'twotower train' wrote.")],
    item: Annotated[str | None, typer.Option(help="Id of a known item.")] = None,
    items: Annotated[Path | None, typer.Option(help="File of items: CSV, TSV, JSON lines or Parquet.")] = None,
    k: Annotated[int, typer.Option("-k", help="How many items, for each one asked about.")] = 20,
    among: Annotated[
        str, typer.Option(help="Where the neighbours of --items come from: catalogue or file.")
    ] = "catalogue",
    filter: Filter = None,
    only: Only = None,
    csv: Annotated[Path | None, typer.Option(help="Write the answers to this CSV file.")] = None,
    device: Device = "cpu",
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Find the items that are nearest by the model."""
    from rich.console import Console

    from twotower.cli.answers import print_json, row, table, write_csv
    from twotower.cli.notices import gathered
    from twotower.cli.options import listed_items
    from twotower.core.errors import InputError
    from twotower.serving.retriever import Similar, load

    if (item is None) == (items is None):
        raise InputError("give exactly one of --item and --items")
    query: dict[str, Any]
    with gathered() as notices:
        retriever = load(bundle, device)
        chosen = listed_items(retriever.bundle, only)
        if item is not None:
            query = {"item": item, "k": k}
            found = [Similar(item, retriever.similar(item, k=k, filter=filter, only=chosen))]
            rows = [row(answer) for answer in found[0].answers]
        else:
            assert items is not None, "one of the two was checked to be given"
            query = {"items": str(items), "k": k, "among": among}
            found = retriever.similar_table(items, k=k, among=among, filter=filter, only=chosen)
            rows = [
                {"query": one.id, "rank": rank, **row(answer)}
                for one in found
                for rank, answer in enumerate(one.answers, start=1)
            ]
    if filter is not None:
        query["filter"] = filter
    if csv is not None:
        write_csv(csv, rows)
    if json:
        print_json({"query": query, "items": rows, "notices": notices})
        return
    console = Console()
    for one in found[:SHOWN]:
        console.print(table(f"Nearest to {one.id}", one.answers, k))
    if len(found) > SHOWN:
        rest = "all of them are in the file" if csv is not None else "--csv FILE writes them all"
        console.print(f"and {len(found) - SHOWN:,} more rows: {rest}")
