"""Answers in outside ids: one item, the items of one request, the neighbours of one row of a file."""

from __future__ import annotations

from typing import Any, NamedTuple

from twotower.core.html import html_table


class Answer(NamedTuple):
    """Hold one item of an answer: its outside id, its score before temperature and its raw columns."""

    id: str
    score: float
    columns: dict[str, Any]


class Answers(list[Answer]):
    """Hold the answers of one request, best first: a list that a notebook shows as a table."""

    def _repr_html_(self) -> str:
        """Show rank, id, score and raw columns as a table in a notebook."""
        names = list(dict.fromkeys(name for answer in self for name in answer.columns))
        rows = (
            (place, answer.id, f"{answer.score:.4f}", *(answer.columns.get(name, "") for name in names))
            for place, answer in enumerate(self, 1)
        )
        return html_table(("", "id", "score", *names), rows)


class Similar(NamedTuple):
    """Hold the neighbours of one row of a file of items: its outside id, and the answers."""

    id: str
    answers: list[Answer]
