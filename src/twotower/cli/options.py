"""Common parts of commands: options that several take, and the examples at the end of their help."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from twotower.serving.bundle import Bundle

Device = Annotated[
    str, typer.Option("--device", help="Where the model runs: auto (CUDA where there is some), cpu, cuda or cuda:N.")
]

Engine = Annotated[
    str,
    typer.Option(
        "--engine",
        help="Who works: local (processes here), or a cluster by address: dask://HOST:PORT, ray://HOST:PORT.",
    ),
]
Workers = Annotated[int, typer.Option("--workers", help="Processes of --engine local; 1: this one.")]
Filter = Annotated[
    str | None,
    typer.Option("--filter", help="Condition on item columns: \"genre = 'Comedy' and year >= 1990\"."),
]
Only = Annotated[
    Path | None,
    typer.Option("--only", help="File of item ids that alone may come back: a table with the id's column, or .txt."),
]


def listed_items(bundle: Bundle, path: Path | None) -> list[str] | None:
    """Return the ids of the items that the file of ``--only`` names; None: no file was given.

    Raises:
        InputError: if the file cannot be read, or names no item of the catalogue.
    """
    if path is None:
        return None
    from twotower.serving.listed import listed_rows

    return bundle.item_vocabulary.ids(listed_rows(bundle, path, "item").tolist())


def examples(*lines: str) -> str:
    r"""Write the end of a command's help: one example a line.

    Examples:
        >>> examples("twotower evaluate runs/sasrec")
        'Examples:\n\n$ twotower evaluate runs/sasrec'
    """
    return "\n\n".join(["Examples:", *(f"$ {line}" for line in lines)])
