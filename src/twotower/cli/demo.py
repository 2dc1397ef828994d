"""``twotower demo``: the main job from nothing, on real data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twotower.cli.options import Device, examples
from twotower.core.terminal import literal

if TYPE_CHECKING:
    from rich.console import Console

    from twotower.experiment.ladder.fitted import Fitted

EXAMPLES = examples(
    "twotower demo",
    "twotower demo --data ml-100k --from downloads/ml-100k.zip --to runs/demo",
)


def command(
    to: Annotated[Path, typer.Option(help="Folder for data and bundle.")] = Path("runs/demo"),
    data: Annotated[str, typer.Option(help="Name of the data set.")] = "ml-100k",
    copy: Annotated[Path | None, typer.Option("--from", help="A copy of it on this machine.")] = None,
    budget: Annotated[str, typer.Option(help="Time for models, as 90s, 10m or 1h30m.")] = "3m",
    users: Annotated[int, typer.Option(help="Users to recommend to.", min=0)] = 2,
    k: Annotated[int, typer.Option("-k", help="Length of their lists.", min=1)] = 5,
    device: Device = "auto",
) -> None:
    """Fetch a public log and fit it: models side by side, the best as a bundle with a page, answers with titles."""
    from rich.console import Console

    from twotower.cli.fit import board, notice
    from twotower.cli.notices import is_quiet
    from twotower.experiment.demo import run_demo
    from twotower.training.progress import Progress

    console = Console()
    fitted = run_demo(
        to,
        name=data,
        copy=copy,
        budget=budget,
        device=device,
        watch=lambda model: [Progress(model, "ndcg@10", quiet=is_quiet())],
        notice=notice,
    )
    console.print(board(fitted))
    console.print(literal(f"{fitted.choice.reason}."))
    _show_check(fitted, console)
    _show_answers(fitted, users, k, console)
    seen = "" if fitted.mask_seen else " --include-seen"
    for line in (
        f"\nBundle: {fitted.bundle}. Ask it for more, and look at the page {fitted.report}:",
        f"  twotower recommend {fitted.bundle} --user ID{seen}    (ids: {fitted.bundle}/vocabulary/users.parquet)",
        f"  twotower evaluate {fitted.winner.bundle}",
        "Your own log: twotower fit LOG.csv --to runs/mine",
    ):
        console.print(literal(line), soft_wrap=True)
    if fitted.stopped:
        raise typer.Exit(130)


def _show_check(fitted: Fitted, console: Console) -> None:
    check = fitted.diagnosis
    if check is not None:
        figures = check["statistics"]
        text = (
            f"\nItem vectors of {fitted.choice.name}: {check['verdict']} (mean cosine {figures['mean_cosine']:.2f}, "
            f"{figures['effective_dimensions']} effective dimensions of {figures['dimensions']})"
        )
        console.print(literal(text))
        for reason in check["reasons"][:2]:
            console.print(literal(f"  {reason['sentence']}"))


def _show_answers(fitted: Fitted, users: int, k: int, console: Console) -> None:
    """Recommendations for the users with the median numbers of events, so that they are typical."""
    from twotower.cli.answers import print_beside
    from twotower.serving.retriever import load

    retriever = load(fitted.bundle)
    lengths = fitted.dataset.log.lengths
    by_length = lengths.argsort(stable=True)
    by_length = by_length[lengths[by_length] > 0]
    middle = len(by_length) // 2
    for row in by_length[middle : middle + users].tolist():
        user = retriever.bundle.user_vocabulary.ids([row])[0]
        console.print()
        answers = retriever.recommend(user=user, k=k, include_seen=not fitted.mask_seen)
        print_beside(f"For user {user}", answers, "latest first", retriever.seen(user)[:k])
