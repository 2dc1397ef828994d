"""``twotower reproduce``: a paper's table, run again on real data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twotower.core.errors import InputError

if TYPE_CHECKING:
    from twotower.recipes.reproduce.study import Table


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
    show: Annotated[bool, typer.Option("--list", help="List the tables and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Train every variant of a table on several seeds, and report means, intervals and tests.

    What is done stays done: a stopped table goes on where it was.
    """
    from twotower.recipes.reproduce.tables import TABLES, table_of

    if show:
        for table in TABLES.values():
            typer.echo(f"{table.name:20} {table.title} ({', '.join(table.data)})")
        return
    if not name:
        raise InputError("name a table; 'twotower reproduce --list' shows them")
    table = table_of(name)
    folder = to or Path("runs") / "reproduce" / name

    from twotower.core.files import read_json
    from twotower.recipes.reproduce.figures import draw_curves
    from twotower.recipes.reproduce.study import run_table
    from twotower.recipes.reproduce.summary import summarise

    prepared = _prepared(table, data or [], folder)
    chosen = run_table(table, prepared, folder, seeds=seeds, jobs=jobs, only=only or (), notice=_notice)
    summarise(table, prepared, chosen, seeds or table.seeds, folder)
    for picture in draw_curves(table, prepared, chosen, seeds or table.seeds, folder):
        _notice(f"drawn: {picture}")
    if as_json:
        import json

        typer.echo(json.dumps(read_json(folder / f"{name}.json"), allow_nan=False))
    else:
        typer.echo((folder / f"{name}.md").read_text(encoding="utf-8"))
    _notice(f"results: {folder}")


def _prepared(table: Table, given: list[Path], folder: Path) -> dict[str, Path]:
    """Prepared folders by data set; the table's own are fetched where none is given."""
    from twotower.data.dataset import Dataset

    if given:
        return {Dataset.load(path).name: path for path in given}
    from twotower.data.prepare import prepare
    from twotower.data.sources import SourceUnavailable, get
    from twotower.data.spec import Spec

    found: dict[str, Path] = {}
    for name in table.data:
        target = folder / "data" / f"{name}-prepared"
        try:
            if not target.is_dir():
                prepare(Spec.from_toml(get(name, folder / "data" / name, notice=_notice)), target)
            found[name] = target
        except (SourceUnavailable, InputError) as error:
            _notice(f"{name} is left out: {error}; prepare a copy of it and name it with --data")
    if not found:
        raise InputError(f"reproduce {table.name}: none of {', '.join(table.data)} could be had; give --data DIR")
    return found


def _notice(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201
