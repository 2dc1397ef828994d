"""``twotower data prepare``: raw tables and a spec to a prepared folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from twotower.cli.options import Engine, Workers, examples

EXAMPLES = examples(
    "twotower data prepare my-log.toml --to runs/my-log-prepared",
    "twotower data prepare my-log.toml --to runs/my-log-prepared --workers 4",
)


def prepare(
    spec: Annotated[Path, typer.Argument(help="The TOML that names files, columns, features, labels and split.")],
    to: Annotated[
        Path | None,
        typer.Option("--to", help="Folder to write; default runs/data/NAME-prepared.", show_default=False),
    ] = None,
    memory_limit: Annotated[str, typer.Option(help="Beyond this much, work spills to disk beside the folder.")] = "1GB",
    engine: Engine = "local",
    workers: Workers = 1,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Prepare a data set: CSV, TSV, JSON lines or Parquet to arrays that training reads at once."""
    import time

    from rich.console import Console

    from twotower.core.engines.choose import open_engine
    from twotower.core.files import read_json
    from twotower.core.terminal import json_text, literal, visible
    from twotower.data.prepare.prepare import prepare as run
    from twotower.data.prepare.spec import Spec

    started = time.perf_counter()
    told = Console(stderr=True, highlight=False, soft_wrap=True)
    read = Spec.from_toml(spec)
    target = to or Path("runs") / "data" / f"{read.name}-prepared"
    alone = engine == "local" and workers == 1
    with open_engine(engine, workers) as runs, told.status("preparing") as status:
        run(
            read,
            target,
            memory_limit=memory_limit,
            engine=None if alone else runs,
            progress=lambda text: status.update(literal(text)),
        )
    manifest = read_json(target / "manifest.json")
    for sentence in manifest["treatments"]:
        told.print(literal(f"- {sentence}"))
    counts, seconds = manifest["counts"], time.perf_counter() - started
    if json:
        summary = {"folder": str(target), "name": read.name, "seconds": round(seconds, 3)}
        rest = {key: manifest[key] for key in ("counts", "rows", "treatments")}
        typer.echo(json_text({**summary, **rest}))
        return
    typer.echo(
        f"{visible(target)}: {counts['users']:,} users, {counts['items']:,} items, {counts['events']:,} events "
        f"in {seconds:.1f} s"
    )
