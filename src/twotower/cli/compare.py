"""``twotower compare``: several bundles on their test users, or on a later log, with paired tests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from twotower.cli.options import Device, examples
from twotower.core.errors import InputError

EXAMPLES = examples(
    "twotower compare runs/ease runs/sasrec",
    "twotower compare runs/ease runs/sasrec --metric ndcg@10 --reference runs/ease",
    "twotower compare runs/ease runs/sasrec --data runs/next-week",
)


def command(
    bundles: Annotated[list[Path], typer.Argument(help="Folders of two bundles or more.", show_default=False)],
    metric: Annotated[list[str] | None, typer.Option(help="Such as ndcg@10; may be repeated.")] = None,
    reference: Annotated[
        str | None, typer.Option(help="The bundle that others are tested against; default: the best.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="The prepared data, or a later log; default: the events kept in the bundles.")
    ] = None,
    device: Device = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Compare bundles: means with intervals, paired permutation tests, Holm's correction."""
    from rich.console import Console

    from twotower.core.terminal import json_text
    from twotower.evaluation.report import comparison_table
    from twotower.experiment.front import compare

    if len(bundles) < 2 or len(set(bundles)) < len(bundles):
        raise InputError("name two different bundles or more")
    found = compare(
        {str(bundle): bundle for bundle in bundles},
        metric or ("ndcg@10", "recall@10"),
        reference=reference,
        data=data,
        device=device,
    )
    if as_json:
        typer.echo(json_text(found.to_json()))
        return
    Console().print(comparison_table(found))
