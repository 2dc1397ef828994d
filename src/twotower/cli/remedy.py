"""``twotower remedy``: remedy what a table of items does to a bundle, with figures before and after."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from twotower.cli.options import Device, examples
from twotower.core.terminal import json_text, literal, visible

if TYPE_CHECKING:
    from rich.table import Table

    from twotower.audit.remedy import Remedy

EXAMPLES = examples(
    "twotower remedy runs/two-tower sessions.csv --strategy clusters --to sessions-filled.csv",
    "twotower remedy runs/two-tower sessions.csv --strategy semantic --to runs/semantic",
)

FIGURES = {"mean_cosine": "mean cosine", "rankme": "RankMe", "participation_ratio": "participation ratio"}


def command(
    bundle: Annotated[Path, typer.Argument(help="Folder that 'twotower train' wrote.")],
    items: Annotated[Path, typer.Argument(help="Items about to be served: CSV, TSV, JSON lines or Parquet.")],
    to: Annotated[Path, typer.Option(help="The repaired table, or the new bundle's folder.", show_default=False)],
    strategy: Annotated[
        str,
        typer.Option(help="marginals or clusters (synthetic categories), feature-dropout or semantic (train again)."),
    ] = "marginals",
    encoder: Annotated[
        str,
        typer.Option(
            help="For semantic: a model of sentence-transformers to read texts by too; 'packaged' needs no network."
        ),
    ] = "",
    keywords: Annotated[
        str,
        typer.Option(
            help="For semantic: where keywords come from: idf (the words of highest idf), or the library yake."
        ),
    ] = "idf",
    seed: Annotated[int, typer.Option(help="Seed of every draw.")] = 0,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Fill categories that a table lacks, or train a model that can do without them; geometry and recall compared."""
    import sys

    from twotower.audit.remedy import remedy

    found = remedy(
        bundle, items, strategy=strategy, to=to, encoder=encoder, keywords=keywords, seed=seed, device=device
    )
    if as_json:
        typer.echo(json_text(found.to_json()))
        return
    from rich.console import Console

    console = Console()
    for feature in found.features:
        line = f"{feature['feature']}: {feature['reason']}, {feature['filled']:,} of {found.rows:,} rows filled"
        console.print(literal(line))
    console.print(_table(found))
    for note in found.notes:
        console.print(literal(f"note: {note}", "dim"))
    print(visible(f"written: {found.to}"), file=sys.stderr)  # noqa: T201


def _table(found: Remedy) -> Table:
    from rich.table import Table

    table = Table(title=f"{found.strategy}: {found.rows:,} items", title_justify="left")
    table.add_column("")
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    table.add_row("verdict", found.before["verdict"], found.after["verdict"])
    for name, words in FIGURES.items():
        for part, shown in (("figures", words), ("centred", f"  {words}, centred")):
            table.add_row(shown, *(_number(side[part][name]) for side in (found.before, found.after)))
    if found.recall is not None:
        for suffix, words in (("", "served so"), (", all features", "all features")):
            cells = [_interval(found.recall.get(f"{side}{suffix}")) for side in ("before", "after")]
            table.add_row(f"{found.recall['metric']}, {words}", *cells)
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(figure: dict[str, Any] | None) -> str:
    if figure is None:
        return ""
    low, high = figure["interval"]
    return f"{figure['value']:.4f} \\[{low:.4f}, {high:.4f}]"
