"""``twotower push``: copy a bundle to an address."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from twotower.cli.options import examples

EXAMPLES = examples(
    "twotower push runs/sasrec s3://models/films",
    "twotower push runs/sasrec hf://me/films",
    "twotower push runs/sasrec gs://models/films --replace",
)


def command(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.", show_default=False)],
    address: Annotated[
        str, typer.Argument(help="Where to: s3://…, gs://…, a folder, or hf://user/name.", show_default=False)
    ],
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of a bundle that is there.")] = False,
    public: Annotated[
        bool, typer.Option("--public", help="Let everybody see a repository that is made on a hub.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Copy a bundle to a bucket, a folder or a hub, checked before and after; it arrives whole or not at all."""
    from twotower.cli.answers import print_json
    from twotower.core.terminal import visible
    from twotower.serving.share.transfer import push

    sent = push(bundle, address, replace=replace, private=not public)
    if as_json:
        print_json(sent._asdict())
        return
    typer.echo(visible(f"{sent.files:,} files, {sent.bytes / 1e6:,.1f} MB at {sent.address}"))
