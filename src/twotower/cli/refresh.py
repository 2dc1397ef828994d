"""``twotower refresh``: newer events, users and items in a bundle, written only where it is not worse."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twotower.cli.options import examples

if TYPE_CHECKING:
    from rich.table import Table

    from twotower.experiment.refresh_verdict import Verdict

EXAMPLES = examples(
    "twotower refresh runs/two-tower --data runs/week",
    "twotower refresh runs/two-tower --data runs/week --to runs/two-tower-today",
    "twotower refresh runs/sasrec --data runs/week --set training.epochs=5 --json",
)

WORSE = 3


def command(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.", show_default=False)],
    data: Annotated[Path, typer.Option(help="Newer data, prepared by the spec of the old.", show_default=False)],
    to: Annotated[Path | None, typer.Option(help="Folder of the new bundle; without it, BUNDLE is replaced.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value of the run; may be repeated.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="Where the model trains: auto (CUDA where there is some), cpu, cuda or cuda:N.")
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> int:
    """Train a bundle on with newer data, and write it unless it is worse on the newest; exit status 3 then."""
    from twotower.cli.answers import print_json
    from twotower.cli.notices import gathered, is_quiet
    from twotower.core.terminal import visible
    from twotower.experiment.refresh import refresh
    from twotower.training.progress import Progress

    watch = Progress(bundle.name, quiet=is_quiet())
    try:
        with gathered() as notices:
            done = refresh(
                bundle,
                data,
                to=to,
                device=device,
                change=lambda run: run.with_settings(settings or []),
                callbacks=[watch],
            )
    except KeyboardInterrupt:
        typer.echo(visible(f"stopped; {to or bundle} stays as it is, and the same command starts anew"), err=True)
        raise
    if as_json:
        print_json({**done.to_json(), "notices": notices})
        return WORSE if done.verdict.worse else 0
    from rich.console import Console

    Console().print(verdict_table(done.verdict))
    typer.echo(visible(drift_line(done.verdict)))
    news = f"{done.events:,} new events, {done.users:,} new users, {done.items:,} new items"
    held = ", ".join(f"{number:,} of {whole:,} {name}" for name, (number, whole) in done.known.items())
    typer.echo(visible(f"of what {bundle} had, the new data hold {held}"))
    for reason in done.verdict.reasons:
        typer.echo(visible(f"worse: {reason}"))
    typer.echo(visible(f"{news}: {f'written: {done.written}' if done.written else f'{to or bundle} stays as it is'}"))
    return WORSE if done.verdict.worse else 0


def drift_line(found: Verdict) -> str:
    """Return how far the newest events are from the stored ones, by popularity and feature, as one line."""
    drifts = ", ".join(f"{one.name} {one.distance:.2f} (by chance {one.by_chance:.2f})" for one in found.drifts)
    return f"drift: {drifts or 'none measured'}"


def verdict_table(found: Verdict) -> Table:
    """Build a table of the old bundle beside the new one."""
    from rich.table import Table

    from twotower.core.terminal import literal

    about = literal(f"{found.users:,} users; p = {found.p_value:.4f}")
    table = Table(title="on the newest events", caption=about, title_justify="left", caption_justify="left")
    for name in ("", "old", "new"):
        table.add_column(name, justify="right")
    table.add_row(found.metric, f"{found.old:.4f}", f"{found.new:.4f}")
    table.add_row("items in lists", f"{found.old_items:,}", f"{found.new_items:,}")
    table.add_row("item vectors", found.old_space or "not checked", found.new_space or "not checked")
    return table
