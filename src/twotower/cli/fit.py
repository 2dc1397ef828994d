"""``twotower fit``: from one's own log to the best model of a ladder, in one command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twotower.cli.options import Device, examples
from twotower.core.errors import InputError
from twotower.core.terminal import literal, visible

if TYPE_CHECKING:
    from rich.table import Table

    from twotower.experiment.ladder.fitted import Fitted
    from twotower.experiment.ladder.rungs import Rung

EXAMPLES = examples(
    "twotower fit log.csv --to runs/mine",
    "twotower fit log.parquet --items items.csv --budget 30m --to runs/mine",
    "twotower fit log.csv --user customer --item sku --time bought_at --to runs/mine",
    "twotower fit log.csv --index nominate --to runs/mine",
    "twotower fit --spec runs/mine.run/data.toml --to runs/mine --resume",
)


def command(
    log: Annotated[
        Path | None, typer.Argument(help="The log: CSV, TSV, JSON lines or Parquet.", show_default=False)
    ] = None,
    items: Annotated[Path | None, typer.Option(help="A table of items.")] = None,
    users: Annotated[Path | None, typer.Option(help="A table of users.")] = None,
    budget: Annotated[str, typer.Option(help="Time for models, as 90s, 10m or 1h30m.")] = "10m",
    to: Annotated[Path | None, typer.Option(help="Folder of the bundle.", show_default=False)] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a fit that was stopped.")] = False,
    spec: Annotated[Path | None, typer.Option(help="A spec (TOML) of the data, in place of a guess.")] = None,
    user: Annotated[str | None, typer.Option(help="Column of the user's id.")] = None,
    item: Annotated[str | None, typer.Option(help="Column of the item's id.")] = None,
    time: Annotated[str | None, typer.Option(help="Column of the time; none: there is none.")] = None,
    unit: Annotated[str | None, typer.Option(help="Of times that are numbers: s, ms, us, ns or order.")] = None,
    value: Annotated[str | None, typer.Option(help="Column of a rating.")] = None,
    positive_from: Annotated[
        float | None, typer.Option(help="Events with this rating or a higher one are positives.")
    ] = None,
    columns: Annotated[str | None, typer.Option(help="A,B,C: column names of a log without a header.")] = None,
    index: Annotated[
        str, typer.Option(help="Index of the bundle, such as nominate; the default if the best model cannot take it.")
    ] = "exact",
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Guess what a log is, train a ladder of models within the budget, and keep the best as a bundle with a page."""
    if to is None:
        raise InputError("name the bundle's folder: --to runs/my-model")

    from rich.console import Console

    from twotower.cli.answers import print_json, split_ids
    from twotower.cli.notices import is_quiet
    from twotower.experiment.ladder.fit import fit
    from twotower.experiment.ladder.rungs import METRIC
    from twotower.training.progress import Progress

    try:
        fitted = fit(
            log,
            items,
            users,
            to=to,
            budget=budget,
            resume=resume,
            device=device,
            spec=spec,
            user=user,
            item=item,
            time=time,
            unit=unit,
            value=value,
            positive_from=positive_from,
            columns=split_ids(columns or ""),
            index=index,
            watch=lambda name: [Progress(name, METRIC, quiet=is_quiet())],
            notice=notice,
            progress=notice if sys.stderr.isatty() else lambda text: None,
        )
    except KeyboardInterrupt:
        notice("stopped; the same command with --resume goes on with what is done")
        raise
    if as_json:
        print_json(fitted.to_json())
    else:
        Console().print(board(fitted))
    for text in (f"bundle: {fitted.bundle}", f"page: {fitted.report}"):
        notice(text)
    if fitted.stopped:
        raise typer.Exit(130)


NAME_WIDTH = 17
"""Of the first column, so that the table is within 80 columns; the page and --json have names in full."""


def short_name(rung: Rung) -> str:
    """Return a name for the table: a variant by what it changes, below its model, and a mixture without its parts."""
    if rung.parts:
        return rung.model
    changes = rung.name.removeprefix(rung.model).split()
    if not changes:
        return rung.model
    name = " " + changes[0] + (" …" if len(changes) > 1 else "")
    return name if len(name) <= NAME_WIDTH else name[: NAME_WIDTH - 1] + "…"


def board(fitted: Fitted) -> Table:
    """Build the table of every model with its figures, in the order of the ladder, 80 columns wide at most."""
    from rich import box
    from rich.table import Table

    from twotower.core.durations import clock
    from twotower.experiment.ladder.pick import shown_p
    from twotower.experiment.ladder.rungs import METRIC

    table = Table(
        title=literal(f"{fitted.dataset.name}: {fitted.choice.name} is taken"),
        caption="95 % intervals over users; p: paired test against the best\non validation; the test chooses nothing",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 0, 0, 1),
    )
    for name in ("model", f"validation {METRIC}", "p", f"test {METRIC}", "time"):
        table.add_column(name, justify="left" if name == "model" else "right", no_wrap=True)
    for rung in fitted.rungs:
        if rung.validation is None or rung.test is None:
            table.add_row(literal(short_name(rung)), "left out", "", "", "")
            continue
        figures = [
            f"{result.metrics[METRIC]:.4f} [{low:.2f}, {high:.2f}]"
            for result in (rung.validation, rung.test)
            for low, high in [result.intervals()[METRIC]]
        ]
        p = shown_p(fitted.choice.p_values.get(rung.name))
        table.add_row(literal(short_name(rung)), literal(figures[0]), p, literal(figures[1]), clock(rung.seconds))
    if mixed := [rung.name for rung in fitted.rungs if rung.parts]:
        table.caption = literal(f"{mixed[0]}\n{table.caption}")
    return table


def notice(text: str) -> None:
    """Print a notice to the user on standard error."""
    print(visible(text, lines=True), file=sys.stderr)  # noqa: T201
