"""Common parts of commands: options that several take, and the examples at the end of their help."""

from __future__ import annotations

from typing import Annotated

import typer

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


def examples(*lines: str) -> str:
    r"""Write the end of a command's help: one example a line.

    Examples:
        >>> examples("twotower evaluate runs/sasrec")
        'Examples:\n\n$ twotower evaluate runs/sasrec'
    """
    return "\n\n".join(["Examples:", *(f"$ {line}" for line in lines)])
