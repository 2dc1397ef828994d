"""Figures of SparCode's tables in ``docs/experiments.md`` are those of the pages in ``benchmarks/papers``."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAIN = "## SparCode: codes lose recall"
PARTS = "## SparCode by its parts"
COLD = "## New users: what features alone are worth"
TREES = "## TDM on MovieLens"
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
        (COLD, "sparcode-cold", "kuairand-cold-whole"),
        (PARTS, "sparcode-codebooks", "ml-1m"),
        (PARTS, "sparcode-scorers", "ml-1m"),
        (PARTS, "sparcode-tries", "kuairand-cold"),
        (PARTS, "sparcode-tries", "ml-1m"),
        (PARTS, "sparcode-sparsity", "ml-1m"),
        (TREES, "sparcode", "ml-1m"),
        (TREES, "sparcode-trees", "ml-1m"),
    ],
)
def test_tables_by_variant_are_those_of_their_pages(section: str, table: str, data: str) -> None:
    text = (ROOT / "benchmarks" / "papers" / f"{table}-{data}.md").read_text(encoding="utf-8")
    page = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    columns, known = page[0], {row[0]: row for row in page[2:]}
    shown = [part for part in tables(section) if part[0][0] == "variant" and {row[0] for row in part[2:]} <= set(known)]
    assert shown
    for part in shown:
        for row in part[2:]:
            for column, cell in zip(part[0][1:], row[1:], strict=True):
                assert cell == known[row[0]][columns.index(column)], (row[0], column)


def test_tokens_stand_by_seed_where_a_mean_would_hide_dead_trainings() -> None:
    shown = next(part for part in tables(PARTS) if part[0][0] == "tokens a user")
    assert [row[0] for row in shown[2:]] == ["1", "2", "4", "8"]
    own = figures("sparcode-tokens", "ml-1m")
    for tokens, seeds, median, *by_lists in shown[2:]:
        values = own[f"tokens_{tokens}"]["values"]
        assert seeds == _by_seed(values)
        assert median == f"{sorted(values)[1]:.3f}"
        assert by_lists == [_by_seed(own[f"tokens_{tokens}/lists {percent} %"]["values"]) for percent in (98, 99)]


def _by_seed(values: list[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


def test_times_of_searches_are_those_of_the_last_full_run() -> None:
    run = json.loads((ROOT / "benchmarks" / "results" / "postings.json").read_text(encoding="utf-8"))
    assert not run["quick"]
    assert run["settings"]["alone"]
    searches = {
        "FAISS flat": "flat",
        "lists nominate, the twin ranks (N 1024, 99.5 %, c 1), numba": run["chosen"]["nominate"],
        "HNSW, M 32, ef 8": run["chosen"]["hnsw"],
        "IVF-flat, 830 lists, probes 16": run["chosen"]["ivf_flat"],
        "IVF-PQ 16 x 8, probes 16": run["chosen"]["ivf_pq"],
        "HNSW, M 32, ef 24, as much of the twin's own answer": run["chosen"]["hnsw_same_answers"],
    }
    warm, emptied = run["microseconds_43k"], run["microseconds_43k_emptied"]
    rows = {row[0]: row[1:] for part in tables(MAIN) if part[0][0].startswith("43,097") for row in part[2:]}
    for label, name in searches.items():
        kept = run["recall_at_50"][name] / run["recall_at_50"]["flat"]
        same = run["share_of_the_twins_answer"][name]
        times = f"{warm[name]['p50']:.0f} / {warm[name]['p99']:.0f}"
        assert rows[label] == [f"{kept:.3f}", f"{same:.3f}", times, f"{emptied[name]['p50']:.0f}"], label
    aims = " ".join(row[1] for part in tables(MAIN) if part[0][:2] == ["aim", "measured"] for row in part[2:])
    for name in ("postings_over_flat", "postings_over_hnsw", "postings_over_hnsw_each_at_099"):
        assert f"{run[name]:.3f}" in aims
    for size, sparsity in ((65_000, "99"), (65_000, "99.5"), (1_000_000, "99"), (1_000_000, "99.5")):
        assert f"{run[f'lists_{sparsity}_over_flat_{size}']:.4f}" in aims
