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
    then: Annotated[
        Path | None, typer.Option(help="Judge the pair with this pre-ranker's bundle, and note it there.")
    ] = None,
    candidates: Annotated[
        int | None, typer.Option(help="With --then: how many items the first hands to the second; default 500.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Rank the whole catalogue for every user of a split, and show the metrics with their intervals."""
    from twotower.cli.notices import gathered
    from twotower.cli.results import show_test
    from twotower.experiment.evaluate import judge_served

    if then is not None:
        _pair(bundle, then, candidates, _lengths(ks), alone=data is None and split == "test", as_json=as_json)
        return
    if candidates is not None:
        from twotower.core.errors import InputError

        raise InputError("--candidates are what --then puts in order: name the pre-ranker's bundle by --then")
    with gathered() as warnings:
        judged = judge_served(bundle, data=data, split=split, ks=_lengths(ks), include_seen=include_seen)
    show_test(judged.result, title=judged.title, as_json=as_json, index=judged.index_loss, warnings=warnings)


def _pair(bundle: Path, then: Path, candidates: int | None, ks: tuple[int, ...], *, alone: bool, as_json: bool) -> None:
    from twotower.cli.results import show_pair
    from twotower.core.errors import InputError
    from twotower.experiment.pair import CANDIDATES, judge_pair

    if not alone:
        raise InputError("--then judges a pair on the test events that the bundles keep: leave out --data and --split")
    judged = judge_pair(bundle, then, candidates=CANDIDATES if candidates is None else candidates, ks=ks)
    show_pair(judged, title=f"{then.name} behind {bundle.name}", as_json=as_json)


def _lengths(text: str) -> tuple[int, ...]:
    from twotower.core.errors import InputError

    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise InputError(f"-k {text}: write list lengths with commas, such as 10,20,50") from None
