"""``twotower evaluate``: the figures of a bundle on its test split."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twotower.cli.options import Device, examples
from twotower.cli.ranks import ranks, several
from twotower.core.errors import InputError

if TYPE_CHECKING:
    from twotower.training.distributed import World

EXAMPLES = examples(
    "twotower evaluate runs/sasrec",
    "twotower evaluate runs/sasrec --split validation -k 10,50 --json",
    "twotower evaluate runs/sasrec --data runs/next-week",
    "twotower evaluate runs/sasrec --then runs/fit --candidates 500",
)


def command(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.", show_default=False)],
    data: Annotated[
        Path | None, typer.Option(help="The prepared data, or a later log; default: the events kept in the bundle.")
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
    device: Device = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
    wait: Annotated[float, typer.Option(help="Seconds that ranks started by torchrun wait for each other.")] = 600.0,
) -> None:
    """Rank the whole catalogue for every user of a split, and show the metrics with their intervals.

    Under torchrun the users are shared out over several processes.
    """
    if several():
        again = "all ranks end; nothing was changed: start the same command again"
        with ranks(wait, "evaluation", again) as world:
            with world.together():
                if then is not None:
                    raise InputError("--then judges a pair in one process: start it without torchrun")
                _check_alone(candidates)
                lengths = _lengths(ks)
            _bundle(bundle, data, split, lengths, include_seen, device=device, as_json=as_json, world=world)
        return
    if then is not None:
        if data is not None or split != "test":
            raise InputError(
                "--then judges a pair on the test events that the bundles keep: leave out --data and --split"
            )
        _pair(bundle, then, candidates, _lengths(ks), device=device, as_json=as_json)
        return
    _check_alone(candidates)
    _bundle(bundle, data, split, _lengths(ks), include_seen, device=device, as_json=as_json)


def _bundle(
    bundle: Path,
    data: Path | None,
    split: str,
    ks: tuple[int, ...],
    include_seen: bool | None,
    *,
    device: str,
    as_json: bool,
    world: World | None = None,
) -> None:
    """Judge one bundle; of several ranks, the first shows it."""
    from twotower.cli.notices import gathered
    from twotower.cli.results import show_test
    from twotower.experiment.evaluate import judge_served

    with gathered() as warnings:
        judged = judge_served(
            bundle, data=data, split=split, ks=ks, include_seen=include_seen, device=device, world=world
        )
    if world is None or not world.rank:
        show_test(judged.result, title=judged.title, as_json=as_json, index=judged.index_loss, warnings=warnings)


def _check_alone(candidates: int | None) -> None:
    if candidates is not None:
        raise InputError("--candidates are what --then puts in order: name the pre-ranker's bundle by --then")


def _pair(bundle: Path, then: Path, candidates: int | None, ks: tuple[int, ...], *, device: str, as_json: bool) -> None:
    from twotower.cli.results import show_pair
    from twotower.experiment.pair import CANDIDATES, judge_pair

    wanted = CANDIDATES if candidates is None else candidates
    judged = judge_pair(bundle, then, candidates=wanted, ks=ks, device=device)
    show_pair(judged, title=f"{then.name} behind {bundle.name}", as_json=as_json)


def _lengths(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise InputError(f"-k {text}: write list lengths with commas, such as 10,20,50") from None
