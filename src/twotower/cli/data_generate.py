"""``twotower data generate``: draw a log of any size with planted truth, streamed to Parquet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from twotower.cli.options import examples
from twotower.core.terminal import visible

EXAMPLES = examples(
    "twotower data generate --users 10000 --items 20000 --events 500000 --to runs/generated",
    "twotower data generate --users 1000000 --items 10000000 --events 200000000 --partitions 8 --to runs/large",
)


def generate(
    users: Annotated[int, typer.Option(help="Users.")],
    items: Annotated[int, typer.Option(help="Items; the rarest may have no event.")],
    events: Annotated[int, typer.Option(help="Events of the whole log, at least 3 a user.")],
    to: Annotated[Path, typer.Option("--to", help="Folder to write.")],
    partitions: Annotated[int, typer.Option(help="Runs of files; the rows do not depend on it.")] = 1,
    clusters: Annotated[int, typer.Option(help="Groups of items; 0: the square root of the items.")] = 0,
    item_exponent: Annotated[float, typer.Option(help="Power law of an item's events by its rank.")] = 1.0,
    user_exponent: Annotated[float, typer.Option(help="Power law of a user's events by rank.")] = 0.7,
    noise: Annotated[float, typer.Option(help="Share of events that follow no taste.")] = 0.1,
    drift: Annotated[float, typer.Option(help="Share of users whose tastes change once.")] = 0.2,
    session: Annotated[float, typer.Option(help="Mean events of a session.")] = 5.0,
    days: Annotated[int, typer.Option(help="Days that the log covers.")] = 365,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Draw a log of any size from a planted world, in bounded memory, with the truth beside it."""
    from twotower.data.generate import generate as draw
    from twotower.data.planted_world import WorldSettings

    settings = WorldSettings(
        users=users, items=items, events=events, clusters=clusters, item_exponent=item_exponent,
        user_exponent=user_exponent, noise=noise, drift=drift, session=session, days=days, seed=seed,
    )  # fmt: skip
    spec = draw(settings, to, partitions=partitions)
    if as_json:
        typer.echo(json.dumps({"spec": str(spec), "truth": str(to / "truth" / "world.json"), "events": events}))
        return
    prepared = to.with_name(to.name + "-prepared")
    typer.echo(
        visible(f"wrote {events:,} events to {to}\nnext: twotower data prepare {spec} --to {prepared}", lines=True)
    )
