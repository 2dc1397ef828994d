"""Output of `recommend` and `similar`: JSON for programs, tables for people."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from rich.columns import Columns
from rich.console import Console
from rich.table import Table

from twotower.core.files import replacing_file
from twotower.core.folders import check_outside
from twotower.core.terminal import json_text, literal
from twotower.serving.columns import cell, telling
from twotower.serving.retriever import Answer
from twotower.serving.vocabulary import Record
from twotower.serving.why import Why


def split_ids(text: str) -> list[str]:
    """Return the ids of ``A,B,C``, without blanks around them; one in double quotes may hold commas, as in CSV.

    Examples:
        >>> split_ids(" 12, b ,")
        ['12', 'b']
        >>> split_ids('"a,1", b')
        ['a,1', 'b']
    """
    parts = re.findall(r'\s*("(?:[^"]|"")*"(?=\s*(?:,|$))|[^,]*)\s*(?:,|$)', text)
    return [id for part in parts if (id := _unquoted(part.strip()))]


def _unquoted(id: str) -> str:
    quoted = len(id) > 1 and id[0] == id[-1] == '"'
    return id[1:-1].replace('""', '"') if quoted else id


def row(answer: Answer) -> dict[str, Any]:
    """Return an answer as one flat record; its id and score win over raw columns of those names."""
    return {
        "id": answer.id,
        "score": answer.score,
        **{k: v for k, v in answer.columns.items() if k not in ("id", "score")},
    }


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write flat records as CSV, with every column that any of them has; lists are joined by '|'."""
    check_outside(path)
    names = list(dict.fromkeys(name for record in rows for name in record))
    with replacing_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        for record in rows:
            flat = {k: "|".join(map(str, v)) if isinstance(v, list) else v for k, v in record.items()}
            writer.writerow(flat)


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object on standard output."""
    typer.echo(json_text(value))


def table(title: str, items: Sequence[Answer | Record], most: int = 20) -> Table:
    """Build a table of items with the columns of most use to a person, at most ``most`` rows."""
    names = telling([item.columns for item in items])
    shown = Table(
        title=literal(title),
        title_justify="left",
        caption=None if len(items) <= most else f"and {len(items) - most} more",
    )
    scored = any(isinstance(item, Answer) for item in items)
    if scored:
        shown.add_column("", justify="right")
    for name in ["id", *names]:
        shown.add_column(literal(name), overflow="fold")
    if scored:
        shown.add_column("score", justify="right")
    for place, item in enumerate(items[:most], start=1):
        cells = [item.id, *(cell(item.columns.get(name)) for name in names)]
        texts = [str(place), *cells, f"{item.score:.4f}"] if isinstance(item, Answer) else cells
        shown.add_row(*map(literal, texts))
    return shown


def print_beside(title: str, answers: Sequence[Answer], other: str, seen: Sequence[Record]) -> None:
    """Print answers, and beside them (below, where the terminal is narrow) what is known of the user, if anything."""
    found = table(title, answers, len(answers))
    Console().print(Columns([found, table(other, seen, max(10, len(answers)))]) if seen else found)


def because(why: Why) -> dict[str, Any]:
    """Return why an item has its score as JSON: each item of the history with its share, largest first."""
    return {"exact": why.exact, "causes": [{"id": cause.id, "share": cause.share} for cause in why.causes]}


def print_why(reasons: Sequence[Why], most: int = 3) -> None:
    """Print, for each answer, the items of the history that carry most of its score."""
    how = "shares add up to the score" if reasons[0].exact else "the score falls by so much without that item"
    shown = Table(title=literal(f"Why ({how})"), title_justify="left")
    for name in ("id", "because of"):
        shown.add_column(name, overflow="fold")
    for why in reasons:
        raising = [cause for cause in why.causes if cause.share > 0.0][:most]
        names = telling([cause.columns for cause in raising], 1)
        texts = [
            f"{(cell(cause.columns.get(names[0]), 32) if names else '') or cause.id} {cause.share:+.3f}"
            for cause in raising
        ]
        shown.add_row(literal(why.id), literal(", ".join(texts) or "no item of the history"))
    Console().print(shown)
