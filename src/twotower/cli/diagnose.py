"""``twotower diagnose``: check whether an embedding space is healthy."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from twotower.cli.options import Device, examples

if TYPE_CHECKING:
    from twotower.diagnosis import Diagnosis

EXAMPLES = examples(
    "twotower diagnose runs/sasrec",
    "twotower diagnose vectors.npy --html report.html",
    "twotower diagnose sessions.csv --bundle runs/two-tower --device cpu",
    "torchrun --standalone --nproc-per-node 4 -m twotower diagnose vectors.npy",
)

COLLAPSED = 3
AGAIN = "all ranks end: start them again"


def command(
    path: Annotated[
        Path, typer.Argument(help="Vectors: .npy, .npz, Parquet, CSV, JSON lines, safetensors, FAISS index, bundle.")
    ],
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
    wait: Annotated[float, typer.Option(help="Seconds that ranks started by torchrun wait for each other.")] = 600.0,
) -> int:
    """Check an embedding space: healthy, suspect or collapsed, and why. Exit status 3 when collapsed."""
    from twotower.cli.ranks import ranks, several
    from twotower.core.errors import InputError
    from twotower.core.terminal import json_text
    from twotower.core.version import __version__
    from twotower.diagnosis import diagnose
    from twotower.ops.share import ALONE, Share

    share = ALONE
    with ranks(wait, "diagnosis", AGAIN) if several() else contextlib.nullcontext() as world:
        if world is not None:
            if bundle is not None:
                raise InputError("with --bundle a diagnosis runs in one process: leave torchrun out")
            world.agree({"version of twotower": __version__})
            share = Share(world.rank, world.size)
        if bundle is not None:
            if column is not None:
                raise InputError("--column names vectors in a file; with --bundle the model makes them from the table")
            diagnosis = _of_table(path, bundle, side=side, thresholds=thresholds, seed=seed, html=html, device=device)
        elif device != "cpu":
            raise InputError("--device says where the model of --bundle runs; vectors are judged on the CPU")
        else:
            diagnosis = diagnose(path, column=column, thresholds=thresholds, seed=seed, share=share)
    if share.rank:  # rank 0 tells
        return 0
    if html is not None and bundle is None:
        from twotower.diagnosis.report.source import report_file

        report_file(html, diagnosis, path, column=column, seed=seed)
    if as_json:
        typer.echo(json_text(diagnosis.to_json()))
    else:
        from rich.console import Console

        from twotower.diagnosis.report.terminal import screen

        Console().print(screen(diagnosis))
    return COLLAPSED if diagnosis.verdict == "collapsed" else 0


def _of_table(
    path: Path,
    bundle: Path,
    *,
    side: Literal["item", "user"],
    thresholds: Path | None,
    seed: int,
    html: Path | None,
    device: str,
) -> Diagnosis:
    from twotower.audit.causes import diagnose_table
    from twotower.serving.bundle import Bundle

    loaded = Bundle.load(bundle, device)
    return diagnose_table(path, loaded, side=side, thresholds=thresholds, seed=seed, html=html)
