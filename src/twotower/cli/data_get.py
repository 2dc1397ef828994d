"""``twotower data get``: fetch a public data set, or draw the synthetic one."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twotower.cli.options import examples
from twotower.core.errors import InputError
from twotower.core.terminal import visible

if TYPE_CHECKING:
    from twotower.data.sources import Source
    from twotower.data.sources.base import Progress

DRAWN = "synthetic only: "

EXAMPLES = examples(
    "twotower data get --list",
    "twotower data get ml-100k --to runs/ml-100k --prepare",
    "twotower data get synthetic --users 500 --items 200 --to runs/synthetic",
)


def get(
    name: Annotated[str, typer.Argument(help="The data set; --list names them.", show_default=False)] = "",
    to: Annotated[Path | None, typer.Option("--to", help="Folder to write; default runs/data/NAME.")] = None,
    from_path: Annotated[
        Path | None, typer.Option("--from", help="A copy at hand: archive, folder, or known Parquet folder.")
    ] = None,
    category: Annotated[str | None, typer.Option(help="Part of a set that comes in parts, as Beauty.")] = None,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Prepare it at once, into the folder TO-prepared.")
    ] = False,
    users: Annotated[int | None, typer.Option(help=DRAWN + "users.")] = None,
    items: Annotated[int | None, typer.Option(help=DRAWN + "items.")] = None,
    cold_items: Annotated[int | None, typer.Option(help=DRAWN + "items without events.")] = None,
    events: Annotated[int | None, typer.Option(help=DRAWN + "mean events of a user.")] = None,
    strength: Annotated[float | None, typer.Option(help=DRAWN + "weight of taste against popularity.")] = None,
    seed: Annotated[int | None, typer.Option(help=DRAWN + "seed.")] = None,
    show: Annotated[bool, typer.Option("--list", help="List the data sets and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Fetch a public data set as tables with a spec, ready for 'twotower data prepare'."""
    from twotower.data import sources
    from twotower.data.sources.synthetic import Synthetic

    if show:
        _list(sources.available(), as_json)
        return
    if not name:
        raise InputError("name a data set; 'twotower data get --list' shows them")
    given = {"users": users, "items": items, "cold_items": cold_items, "events": events, "strength": strength,
             "seed": seed}  # fmt: skip
    settings = {key: value for key, value in given.items() if value is not None}
    target = to or Path("runs") / "data" / name
    with _progress() as progress:
        spec = sources.get(
            name,
            target,
            from_path=from_path,
            category=category,
            settings=Synthetic(**settings) if settings else None,  # type: ignore[arg-type]
            notice=lambda line: typer.echo(visible(line), err=True),
            progress=progress,
        )
    prepared = target.with_name(target.name + "-prepared")
    if prepare:
        from twotower.data.prepare.prepare import prepare as prepare_data

        prepare_data(spec, prepared)
    if as_json:
        typer.echo(json.dumps({"name": name, "spec": str(spec), "prepared": str(prepared) if prepare else None}))
    elif prepare:
        typer.echo(visible(f"prepared {name} in {prepared}\nnext: twotower data describe {prepared}", lines=True))
    else:
        typer.echo(visible(f"wrote {name} to {target}\nnext: twotower data prepare {spec} --to {prepared}", lines=True))


def _list(known: tuple[Source, ...], as_json: bool) -> None:
    if as_json:
        rows = [
            {
                "name": source.name,
                "title": source.title,
                "bytes": source.size,
                "downloads": bool(source.archives) or source.drawn,
                "restricted": source.restricted,
                "licence": source.licence,
                "home": source.home,
            }
            for source in known
        ]
        typer.echo(json.dumps({"data_sets": rows}, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "what", "download", "licence", box=None, pad_edge=False)
    for source in known:
        table.add_row(source.name, source.title, _size(source), source.licence)
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _size(source: Source) -> str:
    if source.drawn:
        return "none"
    if not source.archives:
        return "--from only"
    if source.size is None:
        return "not published"
    return f"{source.size / 1e6:,.1f} MB"


@contextlib.contextmanager
def _progress() -> Iterator[Progress | None]:
    """A bar on standard error, None when that is not a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bars(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, object] = {}

        def progress(name: str, done: int, total: int | None) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(visible(name), total=total)
            bars.update(tasks[name], completed=done, total=total)  # type: ignore[arg-type]

        yield progress
