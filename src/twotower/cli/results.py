"""Display of the figures of an evaluation: tables for people, one JSON object for machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from twotower.core.terminal import literal
from twotower.evaluation.report import notices, result_table, slice_table
from twotower.evaluation.result import Result

if TYPE_CHECKING:
    from rich.table import Table

    from twotower.experiment.index_loss import IndexLoss
    from twotower.experiment.pair import JudgedPair


def show_test(
    result: Result, *, title: str, as_json: bool, index: IndexLoss | None = None, warnings: Sequence[str] = ()
) -> None:
    """Print a result on standard output, with slices of cold users and items and the index's loss where there are.

    The JSON has all notices under ``notices``: ``warnings``, which were logged, and what the table's caption says.
    """
    if as_json:
        values = {**result.to_json(), "notices": [*warnings, *notices(result)]}
        values |= {} if index is None else {"index": index.to_json()}
        print(json.dumps(values, allow_nan=False))  # noqa: T201
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
    if index is not None:
        console.print(index_table(index))


def show_pair(judged: JudgedPair, *, title: str, as_json: bool) -> None:
    """Print how a pair did beside its first stage alone, and the weight that it answers with."""
    found = judged.judgement
    orders = {"first stage": judged.stage_one, "pre-ranker": judged.second, "pair": judged.pair}
    notes = [f"{title}: {warning}"] if (warning := found.warning()) else []
    if as_json:
        metrics = {name: result.metrics for name, result in orders.items()}
        print(json.dumps({**found._asdict(), "metrics": metrics, "notices": notes}, allow_nan=False))  # noqa: T201
        return
    from rich.table import Table

    caption = (
        f"{found.users:,} users, {found.candidates:,} candidates; pre-ranker's weight in the pair: {found.weight:g}, "
        f"chosen on {found.chosen_on}"
    )
    table = Table(title=literal(title), caption=caption, title_justify="left", caption_justify="left")
    table.add_column("test")
    names = [name for name in judged.pair.metrics if name.partition("@")[0] in ("recall", "ndcg")]
    shown = [name for name in names if name.partition("@")[2] in ("10", "100")]
    for name in shown:
        table.add_column(name, justify="right")
    for name, result in orders.items():
        table.add_row(name, *(f"{result.metrics[metric]:.4f}" for metric in shown))
    console = Console()
    console.print(table)
    for note in notes:
        console.print(literal(note))


def index_table(loss: IndexLoss) -> Table:
    """Build a table of one row a list length: recall of the truth by model and by index, and index against exact."""
    from rich.table import Table

    table = Table(
        title=literal(f"what the index '{loss.kind}' loses"),
        caption=f"{loss.users:,} users; recall of the held-out items by exact search and as served",
        title_justify="left",
        caption_justify="left",
    )
    for name in ("", "exact", "served", "found of exact"):
        table.add_column(name, justify="right")
    for k, found in loss.against_exact.items():
        table.add_row(f"top {k}", f"{loss.truth_exact[k]:.4f}", f"{loss.truth_index[k]:.4f}", f"{found:.4f}")
    return table
