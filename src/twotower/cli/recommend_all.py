"""Recommendations of all users, or of those in a file, written as Parquet with progress."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from twotower.cli.answers import print_json
from twotower.cli.notices import gathered, is_quiet
from twotower.core.terminal import visible

EVERY = 10.0
"""Seconds between two lines of progress where there is no terminal."""


def write(
    bundle: str,
    to: str,
    *,
    users: str | None,
    k: int,
    exclude: list[str],
    include_seen: bool | None,
    then: str | None,
    candidates: int | None,
    filter: str | None,
    only: Path | None,
    device: str,
    engine: str,
    workers: int,
    json: bool,
) -> None:
    """Write the file, and say what is in it."""
    from twotower.cli.options import listed_items
    from twotower.core.address import shown_address
    from twotower.core.engines.choose import open_engine
    from twotower.serving.everyone import write_recommendations
    from twotower.serving.loaded import load_from
    from twotower.serving.pipeline import Pipeline

    begun = time.monotonic()
    try:
        with gathered() as notices, open_engine(engine, workers) as runs:
            retriever = load_from(bundle, device)
            done = write_recommendations(
                retriever,
                to,
                users=users,
                k=k,
                exclude=exclude,
                include_seen=include_seen,
                then=None if then is None else Pipeline(retriever, load_from(then, device), candidates=candidates),
                filter=filter,
                only=listed_items(retriever.bundle, only),
                engine=runs,
                on_progress=None if is_quiet() else Progress(),
            )
    except KeyboardInterrupt:
        _say("stopped; the same command goes on with what is done")
        raise
    seconds = time.monotonic() - begun
    if json:
        told = {
            "file": shown_address(to),
            "users": done.users,
            "rows": done.rows,
            "resumed": done.resumed,
            "seconds": seconds,
        }
        print_json({**told, "notices": notices})
        return
    resumed = f", {done.resumed:,} of them by the run that was stopped" if done.resumed else ""
    print(visible(f"{done.rows:,} rows of {done.users:,} users{resumed} in {shown_address(to)} ({seconds:,.1f} s)"))  # noqa: T201


class Progress:
    """Show how many users are done: one line that changes on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self.begun = self.shown = time.monotonic()
        self.on_terminal = sys.stderr.isatty()

    def __call__(self, done: int, total: int) -> None:
        """Show it."""
        now = time.monotonic()
        if not self.on_terminal and now - self.shown < EVERY:
            return
        self.shown = now
        text = f"{done:,} of {total:,} users, {now - self.begun:,.0f} s"
        end = "\n" if not self.on_terminal or done == total else ""
        print(f"\r{text}" if self.on_terminal else text, end=end, file=sys.stderr, flush=True)  # noqa: T201


def _say(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201
