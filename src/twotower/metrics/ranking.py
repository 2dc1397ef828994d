"""Ranking metrics of each query at several k: recall, precision, hit rate, NDCG, MRR and MAP."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float64, Int
from torch import Tensor

MISSED: int = torch.iinfo(torch.int64).max
"""The rank of a relevant item that the list does not hold."""

RANKING_METRICS: tuple[str, ...] = ("recall", "precision", "hit_rate", "ndcg", "mrr", "map")


def ranking_metrics(
    ranks: Int[Tensor, " relevant"], queries: Int[Tensor, " relevant"], num_queries: int, ks: Sequence[int]
) -> dict[str, Float64[Tensor, " {num_queries}"]]:
    """Return six metrics of each query, at each ``k``: names such as ``"recall@10"``.

    With n relevant items, of which those at 0-based ranks r_1 < … < r_h stand among the first k:

        recall     h / n                          precision  h / k            hit_rate  1 if h > 0 else 0
        ndcg       Σ_j 1 / log2(r_j + 2)  divided by the same sum for ranks 0 … min(n, k) − 1
        mrr        1 / (r_1 + 1), 0 if h = 0      map        Σ_j j / (r_j + 1) / n

    Source: Järvelin and Kekäläinen, TOIS 2002, for NDCG with binary gains; the others as in TREC's trec_eval. Where
    others divide (precision by min(k, n), average precision by min(k, n)), values are larger.

    Args:
        ranks: 0-based rank of each relevant item in its query's list; `MISSED` where the list does not hold it.
        queries: the query, 0 … num_queries − 1, that each rank belongs to.
        num_queries: each must own at least one rank.
        ks: lengths at which to cut the list.

    Raises:
        ValueError: if a query has no relevant item, or a k is below 1.

    Examples:
        >>> found = ranking_metrics(torch.tensor([0, 4]), torch.tensor([0, 0]), 1, [3])
        >>> found["recall@3"].item(), found["mrr@3"].item()
        (0.5, 1.0)
    """
    if not ks or min(ks) < 1:
        raise ValueError(f"ks must hold numbers of at least 1, got {list(ks)}")
    ranks, queries = ranks.cpu(), queries.cpu()
    relevant = torch.bincount(queries, minlength=num_queries)
    if len(relevant) != num_queries or not bool(relevant.all()):
        raise ValueError(f"every one of the {num_queries} queries needs at least one relevant item")

    order = ranks.argsort(stable=True)
    order = order[queries[order].argsort(stable=True)]
    ranks, queries = ranks[order], queries[order]
    first = relevant.cumsum(0) - relevant
    nth_hit = torch.arange(1, len(ranks) + 1) - first[queries]

    place = ranks.clamp(max=max(ks)).double() + 1.0
    gain = 1.0 / torch.log2(place + 1.0)
    ideal = (1.0 / torch.log2(torch.arange(2.0, max(ks) + 2.0, dtype=torch.float64))).cumsum(0)
    number = relevant.double()

    def total(values: Tensor, hit: Tensor) -> Tensor:
        return torch.zeros(num_queries, dtype=torch.float64).index_add_(0, queries, values * hit)

    result: dict[str, Tensor] = {}
    for k in ks:
        hit = (ranks < k).double()
        hits = total(torch.ones_like(hit), hit)
        result[f"recall@{k}"] = hits / number
        result[f"precision@{k}"] = hits / k
        result[f"hit_rate@{k}"] = (hits > 0).double()
        result[f"ndcg@{k}"] = total(gain, hit) / ideal[relevant.clamp(max=k) - 1]
        result[f"mrr@{k}"] = hit[first] / place[first]
        result[f"map@{k}"] = total(nth_hit / place, hit) / number
    return result
