"""How the figures of an evaluation look: tables for people, one JSON object for machines."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Console

from twotower.evaluation.report import notices, result_table, slice_table
from twotower.evaluation.result import Result


def show_test(result: Result, *, title: str, as_json: bool, warnings: Sequence[str] = ()) -> None:
    """Print a result on standard output; slices of cold users and items below, where there are any.

    The JSON has them all under ``notices``: ``warnings``, which were logged, and what the table's caption says.
    """
    if as_json:
        figures = {**result.to_json(), "notices": [*warnings, *notices(result)]}
        print(json.dumps(figures, allow_nan=False))  # noqa: T201
        return
    console = Console()
    console.print(result_table(result, title=title))
    if "auc" in result.metrics:  # a run on labelled pairs
        pairs = (f"{name.replace('_', ' ')} {result.metrics[name]:.4f}" for name in ("auc", "gauc", "log_loss"))
        console.print(f"test pairs: {', '.join(pairs)}")
    if any(part.users for name, part in result.slices.items() if name.startswith("cold")):
        middle = sorted({int(name.partition("@")[2]) for name in result.per_user})
        k = min(middle, key=lambda length: abs(length - 10))
        console.print(slice_table(result, [f"recall@{k}", f"ndcg@{k}"]))
