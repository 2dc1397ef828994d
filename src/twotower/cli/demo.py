"""``twotower demo``: the main job from nothing, on real data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twotower.core.terminal import literal, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from twotower.experiment.demo import Demo


def command(
    to: Annotated[Path, typer.Option(help="Folder for data and bundles.")] = Path("runs/demo"),
    data: Annotated[str, typer.Option(help="Name of the data set.")] = "ml-100k",
    copy: Annotated[Path | None, typer.Option("--from", help="A copy of it on this machine.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of every run.")] = 0,
    users: Annotated[int, typer.Option(help="Users to recommend to.", min=0)] = 2,
    k: Annotated[int, typer.Option("-k", help="Length of their lists.", min=1)] = 5,
) -> None:
    """Train baselines and models side by side on real data, check the embeddings, and recommend with titles."""
    from rich.console import Console

    from twotower.experiment.demo import run_demo
    from twotower.training.callbacks import Progress

    console = Console()
    demo = run_demo(
        to,
        name=data,
        copy=copy,
        seed=seed,
        watch=lambda model: [Progress(model)],
        notice=lambda text: print(visible(text), file=sys.stderr),  # noqa: T201
    )
    console.print(_table(demo))
    console.print(_advice(demo))
    _show_check(demo, console)
    _show_answers(demo, users, k, console)
    ids = demo.runs[demo.best].dataset.folder
    for line in (
        f"\nBundle: {demo.bundle}. Ask it for more:",
        f"  twotower recommend {demo.bundle} --user ID    (ids: {ids}/vocabulary/users.parquet)",
        f"  twotower evaluate {demo.bundle}",
        f"  twotower diagnose {demo.bundle}",
    ):
        console.print(literal(line), soft_wrap=True)


def _table(demo: Demo) -> Table:
    from rich import box
    from rich.table import Table

    from twotower.evaluation.compare import compare

    figures = compare(
        {name: run.test for name, run in demo.runs.items()}, ["hit_rate@10", "ndcg@10"], reference=demo.best
    )
    cells = {(row.model, row.metric): row for row in figures.rows}
    some = demo.runs[demo.best]
    table = Table(
        title=literal(
            f"{some.dataset.name}: each user's last item among all {some.test.num_items} others, "
            f"{len(some.test.users)} users"
        ),
        caption=f"\\[95 % interval over users]; p: paired permutation test of NDCG against {demo.best}; "
        "covered: share of the catalogue in somebody's top 10",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for name in ("model", "HR@10", "NDCG@10", "p", "covered", "seconds"):
        table.add_column(name, justify="left" if name == "model" else "right", no_wrap=True)
    for model, run in demo.runs.items():
        hit, ndcg = cells[model, "hit_rate@10"], cells[model, "ndcg@10"]
        table.add_row(
            model,
            f"{hit.mean:.3f} \\[{hit.low:.2f}, {hit.high:.2f}]",
            f"{ndcg.mean:.3f} \\[{ndcg.low:.2f}, {ndcg.high:.2f}]",
            "" if ndcg.p_value is None else f"{ndcg.p_value:.3f}",
            f"{run.test.metrics['coverage@10']:.0%}",
            f"{demo.seconds[model]:.1f}",
        )
    return table


def _advice(demo: Demo) -> str:
    """When the simple model is enough, from the figures just measured."""
    from twotower.evaluation.compare import compare

    simple = max(("item_cosine", "ease"), key=lambda name: demo.runs[name].test.metrics["ndcg@10"])
    pair = compare({name: demo.runs[name].test for name in (demo.best, simple)}, ["ndcg@10"], reference=demo.best)
    row = pair.rows[-1]
    times = f"{demo.seconds[simple]:.0f} s against {demo.seconds[demo.best]:.0f} s"
    if row.difference < 0 and row.p_value is not None and row.p_value < 0.05:
        return (
            f"{demo.best} is ahead of {simple} (NDCG@10, p = {row.p_value:.3f}), in {times}. "
            f"Where that gain does not pay, or the log is smaller, {simple} is enough."
        )
    return f"{simple} is not behind {demo.best} (NDCG@10, p = {row.p_value:.3f}), in {times}: here it is enough."


def _show_check(demo: Demo, console: Console) -> None:
    check = demo.runs[demo.best].diagnosis
    if check is not None:
        figures = check["statistics"]
        console.print(
            f"\nItem vectors of {demo.best}: [bold]{check['verdict']}[/bold] "
            f"(mean cosine {figures['mean_cosine']:.2f}, {figures['effective_dimensions']} effective dimensions of "
            f"{figures['dimensions']})",
            highlight=False,
        )
        for reason in check["reasons"][:2]:
            console.print(literal(f"  {reason['sentence']}"))


def _show_answers(demo: Demo, users: int, k: int, console: Console) -> None:
    """Recommendations for the users with the median numbers of events, so that they are typical."""
    from twotower.cli.answers import print_beside
    from twotower.serving.retriever import load

    retriever = load(demo.bundle)
    lengths = demo.runs[demo.best].dataset.log.lengths
    by_length = lengths.argsort(stable=True)
    by_length = by_length[lengths[by_length] > 0]
    middle = len(by_length) // 2
    for row in by_length[middle : middle + users].tolist():
        user = retriever.bundle.user_vocabulary.ids([row])[0]
        console.print()
        print_beside(f"For user {user}", retriever.recommend(user=user, k=k), "latest first", retriever.seen(user)[:k])
