"""``twotower diagnose``: check whether an embedding space is healthy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from twotower.cli.options import Device, examples

EXAMPLES = examples(
    "twotower diagnose runs/sasrec",
    "twotower diagnose vectors.npy --html report.html",
    "twotower diagnose sessions.csv --bundle runs/two-tower --device cpu",
)

COLLAPSED = 3


def command(
    path: Annotated[Path, typer.Argument(help="Vectors: .npy, .npz, Parquet, CSV, safetensors, FAISS index, bundle.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    thresholds: Annotated[
        Path | None, typer.Option(help="TOML file of thresholds that replace the shipped ones.")
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="Array, tensor or column that holds the vectors, when there are several.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of k-means, samples and noise.")] = 0,
    bundle: Annotated[
        Path | None,
        typer.Option(
            help="Take PATH for a table of items or users that this bundle is about to serve: who is to blame?"
        ),
    ] = None,
    side: Annotated[
        Literal["item", "user"], typer.Option(help="With --bundle: what the rows of the table are.")
    ] = "item",
    html: Annotated[
        Path | None, typer.Option(help="Write the report to this file: one page that needs no network.")
    ] = None,
    device: Device = "cpu",
) -> int:
    """Check an embedding space: healthy, suspect or collapsed, and why. Exit status 3 when collapsed."""
    from twotower.core.errors import InputError
    from twotower.core.terminal import json_text
    from twotower.diagnosis import diagnose

    if bundle is None:
        if device != "cpu":
            raise InputError("--device says where the model of --bundle runs; vectors are judged on the CPU")
        diagnosis = diagnose(path, column=column, thresholds=thresholds, seed=seed)
        if html is not None:
            from twotower.diagnosis.report.source import report_file

            report_file(html, diagnosis, path, column=column, seed=seed)
    else:
        from twotower.audit.causes import diagnose_table
        from twotower.serving.bundle import Bundle

        if column is not None:
            raise InputError("--column names vectors in a file; with --bundle the model makes them from the table")
        loaded = Bundle.load(bundle, device)
        diagnosis = diagnose_table(path, loaded, side=side, thresholds=thresholds, seed=seed, html=html)
    if as_json:
        typer.echo(json_text(diagnosis.to_json()))
    else:
        from rich.console import Console

        from twotower.diagnosis.report.terminal import screen

        Console().print(screen(diagnosis))
    return COLLAPSED if diagnosis.verdict == "collapsed" else 0
