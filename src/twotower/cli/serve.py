"""``twotower serve``: a bundle as an HTTP service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from twotower.cli.options import Device, examples
from twotower.core.errors import InputError

EXAMPLES = examples(
    "twotower serve runs/sasrec --port 8000",
    "twotower serve runs/ease --then runs/fit --candidates 500 --token-file token.txt",
    "twotower serve runs/sasrec --beside runs/ease",
)


def command(
    bundle: Annotated[Path, typer.Argument(help="Folder that 'twotower train' wrote.")],
    then: Annotated[Path | None, typer.Option(help="Bundle of a pre-ranker that orders what is found.")] = None,
    candidates: Annotated[
        int | None, typer.Option(help="How many items the first hands to the second; default 2000.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at; 0: a free one, named in the log.")] = 8000,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the token that clients must send; without it nobody may swap.")
    ] = None,
    device: Device = "cpu",
    threads: Annotated[int | None, typer.Option(help="Requests answered at the same time; default one a core.")] = None,
    concurrency: Annotated[int, typer.Option(help="Requests answered or waiting; one more gets status 503.")] = 64,
    allow_collapsed: Annotated[
        bool, typer.Option("--allow-collapsed", help="Swap a bundle in even if its diagnosis says collapsed.")
    ] = False,
    explorer: Annotated[
        bool, typer.Option("--explorer", help="Serve a page for people too, at /explorer/: search, lists, why, map.")
    ] = False,
    beside: Annotated[
        Path | None, typer.Option(help="Bundle that the page shows next to the first; brings --explorer.")
    ] = None,
    recall_floor: Annotated[
        float,
        typer.Option(
            help="Swap no bundle in whose index finds less of exact search's top 10, for its own users; 0: any."
        ),
    ] = 0.9,
) -> None:
    """Answer over HTTP from a bundle until stopped."""
    if candidates is not None and then is None:
        raise InputError(
            "--candidates are what --then puts in order: name the pre-ranker's bundle by --then, or leave it out"
        )
    bounds = (("port", port, 0, 65_535), ("threads", threads, 1, 1024), ("concurrency", concurrency, 1, 100_000))
    for name, value, least, most in bounds:
        if value is not None and not least <= value <= most:
            raise InputError(f"--{name} must be from {least} to {most}, got {value}")
    if not 0.0 <= recall_floor <= 1.0:
        raise InputError(f"--recall-floor is a share from 0 to 1, got {recall_floor}")
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError(f"serving needs the extra 'serve' ({error}): pip install 'twotower[serve]'") from None
    from twotower.serving.http.limits import Limits
    from twotower.serving.http.server import read_token, serve
    from twotower.serving.http.swap import Loader
    from twotower.serving.pipeline import CANDIDATES

    token = None if token_file is None else read_token(token_file)
    serve(
        bundle,
        then,
        Loader(device, CANDIDATES if candidates is None else candidates, allow_collapsed, recall_floor),
        host=host,
        port=port,
        token=token,
        limits=Limits(concurrency=concurrency),
        threads=threads,
        explorer=explorer or beside is not None,
        beside=beside,
    )
