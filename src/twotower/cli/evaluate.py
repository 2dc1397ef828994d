"""``twotower evaluate``: the figures of a bundle on its test split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.", show_default=False)],
    data: Annotated[
        Path | None, typer.Option(help="The prepared data; default: the events kept in the bundle.")
    ] = None,
    split: Annotated[str, typer.Option(help="test or validation.")] = "test",
    ks: Annotated[str, typer.Option("-k", help="List lengths, with commas; default: those of the run.")] = "",
    include_seen: Annotated[
        bool | None,
        typer.Option(
            "--include-seen/--leave-out-seen",
            help="Whether what the user has seen may be an answer; default: as in the run.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Rank the whole catalogue for every user of a split, and show the metrics with their intervals."""
    from twotower.cli.notices import gathered
    from twotower.cli.results import show_test
    from twotower.experiment.evaluate import judge_served

    with gathered() as warnings:
        judged = judge_served(bundle, data=data, split=split, ks=_lengths(ks), include_seen=include_seen)
    show_test(judged.result, title=judged.title, as_json=as_json, index=judged.index_loss, warnings=warnings)


def _lengths(text: str) -> tuple[int, ...]:
    from twotower.core.errors import InputError

    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise InputError(f"-k {text}: write list lengths with commas, such as 10,20,50") from None
