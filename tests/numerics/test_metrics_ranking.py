"""Ranking metrics against formulas in plain Python, and against an independent library."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys

import pytest
import torch

from twotower.metrics.ranking import MISSED, RANKING_METRICS, ranking_metrics

KS = (1, 3, 8)

BY_RANX = """
import json, sys
import ranx
truth, run, names = json.load(sys.stdin)
found = ranx.evaluate(ranx.Qrels(truth), ranx.Run(run), names)
print(json.dumps({name: float(value) for name, value in found.items()}))
"""


def slow_metrics(ranks: list[int], k: int) -> dict[str, float]:
    """One query: 0-based ranks of its relevant items, None where missed."""
    relevant = len(ranks)
    listed = [False] * k
    for rank in ranks:
        if rank < k:
            listed[rank] = True
    hits, dcg, reciprocal, precisions = 0, 0.0, 0.0, 0.0
    for place, hit in enumerate(listed, start=1):
        if hit:
            hits += 1
            dcg += 1 / math.log2(place + 1)
            reciprocal = reciprocal or 1 / place
            precisions += hits / place
    ideal = sum(1 / math.log2(place + 1) for place in range(1, min(k, relevant) + 1))
    return {
        f"recall@{k}": hits / relevant,
        f"precision@{k}": hits / k,
        f"hit_rate@{k}": float(hits > 0),
        f"ndcg@{k}": dcg / ideal,
        f"mrr@{k}": reciprocal,
        f"map@{k}": precisions / relevant,
    }


def random_case(num_queries: int, seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    case = []
    for _ in range(num_queries):
        size = int(torch.randint(1, 12, (), generator=generator))
        ranks = torch.randperm(20, generator=generator)[:size].tolist()
        case.append([MISSED if rank > 14 else rank for rank in ranks])
    return case


def flat(case: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """In an order that mixes queries."""
    pairs = [(rank, query) for query, ranks in enumerate(case) for rank in ranks]
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(3)).tolist()
    return torch.tensor([pairs[i][0] for i in order]), torch.tensor([pairs[i][1] for i in order])


@pytest.mark.parametrize("num_queries", [1, 2, 17])
def test_matches_the_formulas(num_queries):
    case = random_case(num_queries, seed=num_queries)
    found = ranking_metrics(*flat(case), num_queries, KS)
    assert set(found) == {f"{name}@{k}" for name in RANKING_METRICS for k in KS}
    for query, ranks in enumerate(case):
        for k in KS:
            for name, value in slow_metrics(ranks, k).items():
                assert found[name][query].item() == pytest.approx(value, rel=1e-12, abs=0.0), name
    assert all(values.dtype == torch.float64 for values in found.values())


def test_a_perfect_list_and_an_empty_one():
    perfect = ranking_metrics(torch.tensor([0, 1, 2]), torch.tensor([0, 0, 0]), 1, [3])
    assert all(value.item() == 1.0 for value in perfect.values())
    missed = ranking_metrics(torch.tensor([MISSED]), torch.tensor([0]), 1, [3])
    assert all(value.item() == 0.0 for value in missed.values())


@pytest.mark.parametrize(
    ("ranks", "queries", "number", "ks"),
    [([0], [0], 2, [3]), ([0], [1], 1, [3]), ([0], [0], 1, []), ([0], [0], 1, [0]), ([0, 1], [0, 2], 3, [3])],
)
def test_queries_without_truth_and_bad_ks_are_refused(ranks, queries, number, ks):
    with pytest.raises(ValueError, match=r"ks must hold|needs at least one"):
        ranking_metrics(torch.tensor(ranks), torch.tensor(queries), number, ks)


@pytest.mark.slow
def test_matches_ranx():
    if importlib.util.find_spec("ranx") is None:
        pytest.skip("needs ranx")
    case = random_case(23, seed=5)
    truth, run = {}, {}
    for query, ranks in enumerate(case):
        listed = {rank: f"hit{rank}" for rank in ranks if rank != MISSED}
        run[f"q{query}"] = {listed.get(rank, f"other{rank}"): float(100 - rank) for rank in range(20)}
        truth[f"q{query}"] = {listed.get(rank, f"missed{place}"): 1 for place, rank in enumerate(ranks)}
    names = [f"{theirs}@{k}" for theirs in ("recall", "precision", "hit_rate", "ndcg", "mrr", "map") for k in KS]
    # Its functions run as they are written: compiling them takes most of a minute.
    told = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BY_RANX],
        input=json.dumps([truth, run, names]),
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = json.loads(told.stdout)
    ours = ranking_metrics(*flat(case), len(case), KS)
    for name in names:
        assert ours[name].mean().item() == pytest.approx(theirs[name], rel=1e-9), name
