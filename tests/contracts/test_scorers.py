"""What every scorer promises, whatever the towers."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from twotower.scorers.cosine import Cosine
from twotower.scorers.dot import Dot
from twotower.scorers.heads import REDUCTIONS, head_scorer
from twotower.scorers.mlp_scorer import MLPScorer

USERS, ITEMS, DIM = 3, 5, 4


class Case(NamedTuple):
    scorer: object
    users: torch.Tensor
    items: torch.Tensor


def make_case(name: str) -> Case:
    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64)

    if name in ("dot-vectors", "cosine"):
        return Case(Dot() if name == "dot-vectors" else Cosine(), draw(USERS, DIM), draw(ITEMS, DIM))
    if name == "mlp":
        return Case(MLPScorer(dim=DIM, hidden=(6, 2)).double(), draw(USERS, DIM), draw(ITEMS, DIM))
    user_heads, item_heads = (1, 1) if name == "dot" else (2, 3)
    scorer = head_scorer(name, user_heads=user_heads, item_heads=item_heads, hidden=5).double()
    return Case(scorer, draw(USERS, user_heads, DIM), draw(ITEMS, item_heads, DIM))


@pytest.fixture(params=["dot-vectors", "cosine", "mlp", *REDUCTIONS])
def case(request: pytest.FixtureRequest) -> Case:
    return make_case(request.param)


def test_pairs_are_the_diagonal_of_all(case: Case):
    everything = case.scorer(case.users, case.items)
    assert everything.shape == (USERS, ITEMS)
    torch.testing.assert_close(case.scorer.pairs(case.users, case.items[:USERS]), everything.diagonal())


def test_pairs_with_several_items_a_row(case: Case):
    everything = case.scorer(case.users, case.items)
    by_row = case.items.expand(USERS, *case.items.shape)
    torch.testing.assert_close(case.scorer.pairs(case.users, by_row), everything)


def test_each_score_hangs_on_its_own_pair(case: Case):
    everything = case.scorer(case.users, case.items)
    alone = torch.stack([torch.cat([case.scorer(u[None], i[None])[0] for i in case.items]) for u in case.users])
    torch.testing.assert_close(alone, everything)
    order = torch.tensor([4, 2, 0, 1, 3])
    torch.testing.assert_close(case.scorer(case.users, case.items[order]), everything[:, order])


def test_inner_product_scorers_are_inner_products(case: Case):
    if case.scorer.inner_product:
        torch.testing.assert_close(case.scorer(case.users, case.items), case.users @ case.items.T)


def test_gradient_reaches_both_sides(case: Case):
    users, items = case.users.requires_grad_(), case.items.requires_grad_()
    case.scorer(users, items).sum().backward()
    assert users.grad.abs().sum() > 0
    assert items.grad.abs().sum() > 0
