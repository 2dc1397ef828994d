"""``twotower pull``: fetch a bundle from an address."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from twotower.cli.options import examples

EXAMPLES = examples(
    "twotower pull s3://models/films --to runs/films",
    "twotower pull hf://me/films@main --to runs/films --replace",
)


def command(
    address: Annotated[
        str, typer.Argument(help="Where from: s3://…, gs://…, a folder, or hf://user/name.", show_default=False)
    ],
    to: Annotated[Path, typer.Option(help="Folder of the bundle.", show_default=False)],
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of a bundle that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Fetch a bundle, compare every file with its hash, and put it in place in one step."""
    from twotower.cli.answers import print_json
    from twotower.core.terminal import visible
    from twotower.serving.share.transfer import pull

    sent = pull(address, to, replace=replace)
    if as_json:
        print_json({**sent._asdict(), "bundle": str(to)})
        return
    typer.echo(visible(f"{sent.files:,} files, {sent.bytes / 1e6:,.1f} MB from {sent.address} in {to}"))
