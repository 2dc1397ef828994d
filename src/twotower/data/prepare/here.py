"""The events of a log in one process: all of it in one database, which spills to disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twotower.data.prepare.log import LogReport, Progress
from twotower.data.prepare.select import check_left, number_items, number_users, select_events, write_log
from twotower.data.prepare.spec import Spec
from twotower.data.prepare.values import Signs


class Here:
    """Hold the events of a log as the table ``raw_events`` of a database.

    Args:
        connection: to the database.
        spec: the spec.
        report: what became of the rows so far; selecting fills in the rest.
        progress: is told what is being done.
    """

    def __init__(self, connection: Any, spec: Spec, report: LogReport, progress: Progress) -> None:
        self.connection, self.spec, self.report, self.progress = connection, spec, report, progress

    def ids(self, side: str) -> tuple[list[tuple[str, str]], list[Signs]]:
        """Return where the ids of one side lie in the database, and the signs of those that lie elsewhere."""
        return [("raw_events", f'"{side}"')], []

    def number(self, forms: dict[str, str]) -> dict[str, int]:
        """Select the events that stay and fill ``users`` and ``items``; returns how many rows both have.

        Args:
            forms: of the ids of each side, in which they are written already.

        Raises:
            InputError: if no event is left.
        """
        select_events(self.connection, self.spec, self.report, self.progress)
        check_left(self.spec, self.report)
        return {
            "user": number_users(self.connection),
            "item": number_items(self.connection, self.spec.items is not None),
        }

    def write(self, folder: Path, num_users: int) -> None:
        """Write the arrays of the log."""
        write_log(self.connection, self.spec, folder, num_users, self.progress)
