"""``twotower reproduce``: a paper's table, run again on real data."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twotower.cli.options import Device, examples
from twotower.core.errors import InputError
from twotower.core.terminal import visible

if TYPE_CHECKING:
    from twotower.reproduce.study import Table

EXAMPLES = examples(
    "twotower reproduce --list",
    "twotower reproduce negatives --data runs/ml-100k-prepared --only in_batch --only mixed --seeds 3",
)


def command(
    name: Annotated[str, typer.Argument(help="The table; --list names them.", show_default=False)] = "",
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", help="A prepared data set; may be repeated. Default: fetch the table's."),
    ] = None,
    to: Annotated[Path | None, typer.Option("--to", help="Folder of results; default runs/reproduce/NAME.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Trainings of each variant; default: the table's.")] = None,
    only: Annotated[list[str] | None, typer.Option("--only", help="A variant to run; may be repeated.")] = None,
    jobs: Annotated[int, typer.Option(help="Trainings at a time.")] = 1,
    device: Device = "auto",
    show: Annotated[bool, typer.Option("--list", help="List the tables and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Train every variant of a table on several seeds, and report means, intervals and tests.

    What is done stays done: a stopped table goes on where it was.
    """
    from twotower.core.folders import check_outside
    from twotower.reproduce.tables import TABLES, table_of

    if show:
        if as_json:
            listed = {table.name: {"title": table.title, "data": table.data} for table in TABLES.values()}
            typer.echo(json.dumps(listed))
            return
        for table in TABLES.values():
            typer.echo(f"{table.name:20} {table.title} ({', '.join(table.data)})")
        return
    if not name:
        raise InputError("name a table; 'twotower reproduce --list' shows them")
    table = table_of(name)
    folder = to or Path("runs") / "reproduce" / name
    check_outside(folder)
    try:
        _reproduce(table, data or [], folder, seeds, only or [], jobs, device, as_json)
    except KeyboardInterrupt:
        _notice(f"stopped; the same command goes on: trainings that were finished are in {folder}")
        raise


def _reproduce(
    table: Table,
    data: list[Path],
    folder: Path,
    seeds: int | None,
    only: list[str],
    jobs: int,
    device: str,
    as_json: bool,
) -> None:
    from twotower.core.devices import find_device
    from twotower.core.files import read_json
    from twotower.reproduce.figures import draw_curves
    from twotower.reproduce.sets import fetched_sets, given_sets
    from twotower.reproduce.study import run_table
    from twotower.reproduce.summary import summarise

    find_device(device)
    prepared = given_sets(data) if data else fetched_sets(table, folder / "data", _notice)
    chosen = run_table(table, prepared, folder, seeds=seeds, jobs=jobs, only=only, device=device, notice=_notice)
    summarise(table, prepared, chosen, seeds or table.seeds, folder)
    for picture in draw_curves(table, prepared, chosen, seeds or table.seeds, folder):
        _notice(f"drawn: {picture}")
    if as_json:
        typer.echo(json.dumps(read_json(folder / f"{table.name}.json"), allow_nan=False))
    else:
        typer.echo((folder / f"{table.name}.md").read_text(encoding="utf-8"))
    for page in table.extras(table, prepared, chosen, folder) if table.extras else []:
        _notice(f"written: {page}")
    _notice(f"results: {folder}")


def _notice(text: str) -> None:
    print(visible(text), file=sys.stderr)  # noqa: T201
