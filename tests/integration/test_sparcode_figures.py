"""Figures of SparCode's tables in ``docs/experiments.md`` are those of the pages in ``benchmarks/papers``."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAIN = "## SparCode: what its lists are worth"
PARTS = "## SparCode by its parts"
COLD = "## New users: what features alone are worth"
COLUMNS = (("ml-1m", ("", "98 %", "99 %")), ("sessions-diginetica", ("", "99 %", "99.5 %")))
"""The main table: three columns a log, dense and by lists."""
ROWS = {
    "SASRec; lists nominate, it ranks": ("sasrec", "nominate", "sasrec"),
    "GRU4Rec, likewise": ("gru4rec", "nominate", "gru4rec"),
    "DSSM, likewise": ("dssm", "nominate", "dssm"),
    "gate, self-attention; its lists": ("gate_sasrec", "lists", "sasrec"),
    "SparCode, self-attention; its lists": ("sparcode_sasrec", "lists", "sasrec"),
    "SparCode, GRU": ("sparcode_gru4rec", "lists", "gru4rec"),
    "SparCode, mean pooling": ("sparcode_dssm", "lists", "dssm"),
    "all-to-all, four tokens: SparCode without codes": ("all_to_all", "", "sasrec"),
    "all-to-all, InnerPDNN, not tuned": ("all_to_all_pdnn", "", ""),
    "SparCode as printed, one seed": ("sparcode_printed", "", ""),
}
"""What a row of the main table says, and the variant, its lists, and the twin whose share it gives."""


@cache
def figures(table: str, data: str) -> dict[str, dict[str, float]]:
    """Recall@50 of every variant: its mean, and the bounds where it has several seeds."""
    path = ROOT / "benchmarks" / "papers" / f"{table}-{data}.json"
    found = json.loads(path.read_text(encoding="utf-8"))["figures"][data]
    return {figure["variant"]: figure for figure in found if figure["metric"] == "recall@50"}


def tables(title: str) -> list[list[list[str]]]:
    """Every table of a section: rows of cells, the header first."""
    text = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
    start = text.index(f"\n{title}") + 1
    lines = text[start : text.find("\n## ", start)].splitlines()
    found: list[list[list[str]]] = [[]]
    for line in lines:
        if line.startswith("|"):
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        elif found[-1]:
            found.append([])
    return [part for part in found if part]


def said(table: str, data: str, variant: str, twin: str, *, dense: bool) -> str:
    """What a cell of the main table has to say."""
    own, others = figures(table, data)[variant], figures(table, data)
    text = f"{own['mean']:.3f}"
    if dense and own["low"] is not None:
        text += f" ± {(own['high'] - own['low']) / 2:.3f}"
    has_share = twin and (variant.split("/")[0] != twin or not dense)
    return f"{text} ({own['mean'] / others[twin]['mean']:.3f})" if has_share else text


def test_the_main_table_says_what_the_pages_say() -> None:
    main = next(part for part in tables(MAIN) if "(0.996)" in str(part))
    rows = {row[0]: row[1:] for row in main[2:]}
    assert set(ROWS) < set(rows)
    for label, (variant, how, twin) in ROWS.items():
        wanted = []
        for data, views in COLUMNS:
            for view in views:
                name = f"{variant}/{how} {view}" if view else variant
                there = name in figures("sparcode", data)
                wanted.append(said("sparcode", data, name, twin, dense=not view) if there else "")
        assert rows[label] == wanted, label


@pytest.mark.parametrize(
    ("section", "table", "data"),
    [
        (COLD, "sparcode-cold", "kuairand-cold"),
        (PARTS, "sparcode-scorers", "ml-1m"),
        (PARTS, "sparcode-tries", "kuairand-cold"),
        (PARTS, "sparcode-sparsity", "ml-1m"),
    ],
)
def test_tables_by_variant_are_those_of_their_pages(section: str, table: str, data: str) -> None:
    text = (ROOT / "benchmarks" / "papers" / f"{table}-{data}.md").read_text(encoding="utf-8")
    page = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    columns, known = page[0], {row[0]: row for row in page[2:]}
    shown = [part for part in tables(section) if part[0][0] == "variant" and part[2][0] in known]
    assert shown
    for part in shown:
        for row in part[2:]:
            for column, cell in zip(part[0][1:], row[1:], strict=True):
                assert cell == known[row[0]][columns.index(column)], (row[0], column)
