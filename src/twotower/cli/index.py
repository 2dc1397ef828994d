"""``twotower index``: build a bundle's index again, and find how hard it must search."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from twotower.cli.options import Device, examples

if TYPE_CHECKING:
    from rich.table import Table

    from twotower.experiment.index_tuning import Tuning

KINDS = (
    "exact, hnsw, ivf_flat, ivf_pq, nominate, postings, postings_qdrant_edge, postings_qdrant, sparse_codes, tree, "
    "qdrant_edge, qdrant, milvus, brute_force, or one of your own."
)
EXAMPLES = examples(
    "twotower index runs/sasrec --kind hnsw --set ef_search=64",
    "twotower index runs/sasrec --kind ivf_pq --tune recall=0.95",
    "twotower index runs/cold --kind nominate --tune recall=0.99 -k 50",
    "twotower index runs/sasrec --kind qdrant_edge --set columns=genres,year",
    "twotower index runs/sasrec --drop",
)


def command(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.", show_default=False)],
    kind: Annotated[str, typer.Option(help=KINDS, show_default=False)] = "",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of that kind; may be repeated.")
    ] = None,
    tune: Annotated[
        str, typer.Option(metavar="recall=SHARE", help="Find the least search setting that gives this recall.")
    ] = "",
    drop: Annotated[
        bool, typer.Option("--drop", help="Delete the collections of a server that earlier indexes of it left.")
    ] = False,
    k: Annotated[int, typer.Option("-k", help="List length for which recall is measured.")] = 10,
    device: Device = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Build a bundle's index from its stored item states, tune it on the bundle's users, and replace it in one step."""
    from twotower.core.errors import InputError
    from twotower.core.terminal import json_text, literal
    from twotower.experiment.index_tuning import rebuild_index

    if drop:
        if kind or settings or tune:
            raise InputError("--drop stands alone: build the index, let what serves the bundle load it, then drop")
        return _drop(bundle, as_json=as_json)
    if not kind:
        raise InputError(f"--kind is wanted: {KINDS}")
    built = rebuild_index(bundle, kind, _settings(settings or []), recall=_target(tune), k=k, device=device)
    if as_json:
        typer.echo(json_text(built.to_json()))
        return None
    from rich.console import Console

    console = Console()
    shown = ", ".join(f"{key} = {value}" for key, value in built.settings.items()) or "no settings"
    console.print(literal(f"{bundle}: {kind} ({shown}) over {built.items:,} items in {built.build_seconds:.1f} s"))
    if built.tuning is not None:
        console.print(_table(built.tuning))
    return None


def _drop(bundle: Path, *, as_json: bool) -> None:
    from twotower.core.terminal import json_text, visible
    from twotower.serving.drop import drop_left

    done = drop_left(bundle)
    if as_json:
        typer.echo(json_text(done._asdict()))
        return
    for name in done.deleted:
        typer.echo(visible(f"deleted: {name}"))
    for name in done.gone:
        typer.echo(visible(f"gone already: {name}"))


def _settings(texts: list[str]) -> dict[str, Any]:
    import tomllib

    from twotower.core.errors import InputError, shown

    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not (key and equals and value):
            raise InputError(f"--set {shown(text)}: write key=value, such as ef_search=64")
        try:
            found[key.removeprefix("index.")] = tomllib.loads(f"value = {value}")["value"]
        except (ValueError, RecursionError):
            found[key.removeprefix("index.")] = value
    return found


def _target(text: str) -> float | None:
    from twotower.core.errors import InputError

    if not text:
        return None
    name, _, value = text.partition("=")
    try:
        if name.strip() == "recall":
            return float(value)
    except ValueError:
        pass
    raise InputError(f"--tune {text}: write recall=SHARE, such as recall=0.95")


def _table(tuning: Tuning) -> Table:
    from rich.table import Table

    table = Table(
        title=f"recall@{tuning.k} of exact search's answers",
        caption=(
            f"{tuning.users:,} users, half to choose and half to report; exact search: {tuning.exact_p50_ms:.2f} ms; "
            + (f"target {tuning.target:g} reached" if tuning.reached else f"target {tuning.target:g} not reached")
        ),
        title_justify="left",
        caption_justify="left",
    )
    for name in (tuning.setting, "to choose", "to report", "p50 ms", ""):
        table.add_column(name, justify="right")
    for point in tuning.curve:
        mark = "chosen" if point == tuning.chosen else ""
        table.add_row(str(point.value), f"{point.choosing:.4f}", f"{point.recall:.4f}", f"{point.p50_ms:.2f}", mark)
    return table
