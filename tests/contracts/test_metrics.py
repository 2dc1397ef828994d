"""What every ranking metric keeps to; a metric named in `METRICS` is a member by its line there."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from twotower.core.errors import InputError
from twotower.metrics.ranking import MISSED, ranking_metrics
from twotower.metrics.registry import METRICS, metrics_per_query

K = 5
RANKS = torch.tensor([0, 3, MISSED, 1, 7, 2, 4, 4, MISSED])
QUERIES = torch.tensor([0, 0, 0, 1, 1, 2, 3, 4, 5])
WHOLE = 6
"""Queries of several relevant items and of one, found, found too late, and missed."""


def reciprocal_of_ones_own(ranks: Tensor, queries: Tensor, num_queries: int, k: int) -> Tensor:
    """As somebody outside writes one."""
    return ranking_metrics(ranks, queries, num_queries, [k])[f"mrr@{k}"] ** 2


def named(name: str) -> Callable[[Tensor, Tensor, int, int], Tensor]:
    """The metric of a name, as evaluation asks for it."""
    return lambda ranks, queries, number, k: metrics_per_query(ranks, queries, number, [k])[f"{name}@{k}"]


MEMBERS: dict[str, Callable[[Tensor, Tensor, int, int], Tensor]] = {
    **{name: named(name) for name in METRICS},
    "of_ones_own": reciprocal_of_ones_own,
}


@pytest.fixture(params=MEMBERS)
def metric(request: pytest.FixtureRequest) -> Callable[[Tensor, Tensor, int, int], Tensor]:
    return MEMBERS[request.param]


class TestRankingMetric:
    """One class for all."""

    def test_gives_one_share_a_query(self, metric):
        values = metric(RANKS, QUERIES, WHOLE, K)
        assert values.shape == (WHOLE,)
        assert values.dtype == torch.float64
        assert ((values >= 0.0) & (values <= 1.0)).all()

    def test_nothing_found_is_nought(self, metric):
        assert metric(torch.full((3,), MISSED), torch.tensor([0, 1, 1]), 2, K).eq(0.0).all()

    def test_one_relevant_item_at_the_top_is_the_most_there_is(self, metric):
        best = metric(torch.tensor([0]), torch.tensor([0]), 1, 1)
        assert best.item() == 1.0

    def test_what_stands_behind_the_first_k_does_not_count(self, metric):
        late = torch.where(RANKS >= K, K, RANKS)
        assert metric(late, QUERIES, WHOLE, K).equal(metric(RANKS, QUERIES, WHOLE, K))
        assert metric(late.where(late < K, MISSED), QUERIES, WHOLE, K).equal(metric(RANKS, QUERIES, WHOLE, K))

    def test_the_last_of_the_first_k_does_count(self, metric):
        one = torch.tensor([0])
        assert metric(torch.tensor([K - 1]), one, 1, K).item() > 0.0
        assert metric(torch.tensor([K]), one, 1, K).item() == 0.0

    def test_an_item_that_moves_up_never_lowers_it(self, metric):
        before = metric(RANKS, QUERIES, WHOLE, K)
        for place, up in ((1, 1), (2, 2), (4, 0), (5, 0), (8, 3)):
            moved = RANKS.clone()
            moved[place] = up
            assert (metric(moved, QUERIES, WHOLE, K) >= before).all(), (place, up)

    def test_a_query_knows_nothing_of_the_others(self, metric):
        together = metric(RANKS, QUERIES, WHOLE, K)
        for query in range(WHOLE):
            own = RANKS[query == QUERIES]
            assert metric(own, torch.zeros(len(own), dtype=torch.int64), 1, K).item() == together[query].item()

    def test_the_order_of_the_ranks_does_not_matter(self, metric):
        order = torch.tensor([8, 1, 4, 6, 0, 3, 7, 2, 5])
        torch.testing.assert_close(metric(RANKS[order], QUERIES[order], WHOLE, K), metric(RANKS, QUERIES, WHOLE, K))

    def test_leaves_what_it_is_given_alone(self, metric):
        ranks, queries = RANKS.clone(), QUERIES.clone()
        metric(ranks, queries, WHOLE, K)
        assert ranks.equal(RANKS)
        assert queries.equal(QUERIES)


@pytest.mark.parametrize("gives", [lambda *_: 0.5, lambda *_: torch.zeros(2, 2)], ids=["a number", "a matrix"])
def test_a_metric_of_ones_own_that_gives_something_else_is_refused_by_its_name(gives):
    METRICS.register("wrong")(gives)
    try:
        with pytest.raises(InputError, match="metric 'wrong' must give one number a query"):
            metrics_per_query(RANKS, QUERIES, WHOLE, [K])
    finally:
        METRICS.parts.pop("wrong")


def test_the_contract_refuses_a_metric_that_cuts_one_too_late():
    """A fault planted in a metric of the test's own is seen."""

    def late(ranks: Tensor, queries: Tensor, num_queries: int, k: int) -> Tensor:
        return reciprocal_of_ones_own(ranks, queries, num_queries, k + 1)

    with pytest.raises(AssertionError):
        TestRankingMetric().test_the_last_of_the_first_k_does_count(late)
