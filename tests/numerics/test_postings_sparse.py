"""Postings as sparse vectors: the same answers from Qdrant's engine as from the lists themselves."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from twotower.index.postings import Postings, build_postings
from twotower.index.postings_search import search_postings
from twotower.index.postings_sparse import sparse_items

CODES, ITEMS, USERS, K = 40, 600, 12, 20


def lists(precision: str) -> Postings:
    table = torch.randn(CODES, ITEMS, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(ITEMS) * 3 + 2
    return build_postings(lambda codes, items: table[codes, items].clone(), CODES, ids, longest=50, precision=precision)


@pytest.mark.parametrize("precision", ["float32", "float16", "uint8"])
def test_sparse_items_hold_every_posting_once(precision: str) -> None:
    postings = lists(precision)
    found = {(item.id, code): score for item in sparse_items(postings) for code, score in zip(*item[1:], strict=True)}
    wanted = {}
    for code in range(CODES):
        places = postings.places[postings.offsets[code] : postings.offsets[code + 1]]
        wanted |= {(int(postings.ids[p]), code): s for p, s in zip(places, postings.values(code), strict=True)}
    assert found == wanted
    assert all((np.diff(item.codes) > 0).all() for item in sparse_items(postings))


@pytest.fixture
def shard(tmp_path: Path) -> Any:
    edge = pytest.importorskip("qdrant_edge")
    made = edge.EdgeShard.create(
        str(tmp_path), edge.EdgeConfig(sparse_vectors={"codes": edge.EdgeSparseVectorParams()})
    )
    yield made
    made.close()


@pytest.mark.parametrize("precision", ["float32", "uint8"])
def test_qdrant_finds_what_the_lists_find(precision: str, shard: Any) -> None:
    edge = pytest.importorskip("qdrant_edge")
    postings = lists(precision)
    points = [
        edge.Point(item.id, {"codes": edge.SparseVector(item.codes.tolist(), item.scores.tolist())})
        for item in sparse_items(postings)
    ]
    shard.update(edge.UpdateOperation.upsert_points(points))
    shard.optimize()
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(CODES, (USERS, 6), generator=generator)
    codes[0, 1] = codes[0, 0]  # a code that comes twice
    weights = torch.rand(USERS, 6, generator=generator) + 0.1
    exclude = search_postings(postings, codes, weights, 3, backend="numpy").ids
    for banned in (None, exclude):
        true = search_postings(postings, codes, weights, K, exclude=banned, backend="numpy")
        for user in range(USERS):
            summed: dict[int, float] = defaultdict(float)
            for code, weight in zip(codes[user].tolist(), weights[user].tolist(), strict=True):
                summed[code] += weight
            gone = None
            if banned is not None:
                gone = edge.Filter(must_not=[edge.HasIdCondition(set(banned[user].tolist()))])
            query = edge.Query.Nearest(edge.SparseVector(list(summed), list(summed.values())), using="codes")
            found = shard.query(edge.QueryRequest(limit=K, query=query, filter=gone))
            assert [point.id for point in found] == true.ids[user].tolist()
            scores = torch.tensor([point.score for point in found])
            torch.testing.assert_close(scores, true.scores[user], rtol=1e-5, atol=1e-5)
