"""What every scorer keeps to, whatever the towers; one named in `SCORERS` is a member by its line there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from twotower.scorers.heads import REDUCTIONS, head_scorer
from twotower.scorers.mlp_scorer import MLPScorer
from twotower.scorers.registry import SCORERS, build_scorer

USERS, ITEMS, DIM = 3, 5, 4


class OfOnesOwn(nn.Module):
    """As somebody outside writes one."""

    inner_product = False

    def prepare(self, vectors):
        return vectors

    def forward(self, users, items):
        return -(torch.cdist(users, items) ** 2)

    def pairs(self, users, items):
        users = users[:, None] if items.ndim > users.ndim else users
        return -((users - items) ** 2).sum(-1)


VECTORS: dict[str, Callable[[], Any]] = {
    **{f"{name} of vectors": lambda name=name: build_scorer(name, DIM) for name in SCORERS},
    "small mlp of vectors": lambda: MLPScorer(dim=DIM, hidden=(6, 2)),
    "own": OfOnesOwn,
}
"""Scorers of one vector a side; the others, of several heads, are the `REDUCTIONS`."""


class Case(NamedTuple):
    scorer: object
    users: torch.Tensor
    items: torch.Tensor


def make_case(name: str) -> Case:
    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64)

    if name in VECTORS:
        scorer = VECTORS[name]()
        scorer = scorer.double() if isinstance(scorer, nn.Module) else scorer
        return Case(scorer, scorer.prepare(draw(USERS, DIM)), scorer.prepare(draw(ITEMS, DIM)))
    user_heads, item_heads = (1, 1) if name == "dot" else (2, 3)
    scorer = head_scorer(name, user_heads=user_heads, item_heads=item_heads, hidden=5).double()
    return Case(scorer, draw(USERS, user_heads, DIM), draw(ITEMS, item_heads, DIM))


@pytest.fixture(params=[*VECTORS, *REDUCTIONS])
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


@pytest.mark.parametrize("name", VECTORS)
def test_a_scorer_of_vectors_says_whether_it_is_an_inner_product(name: str):
    scorer, users, items = make_case(name)
    assert torch.allclose(scorer(users, items), users @ items.T) == scorer.inner_product


def test_gradient_reaches_both_sides(case: Case):
    users, items = (side.detach().requires_grad_() for side in (case.users, case.items))
    case.scorer(users, items).sum().backward()
    assert users.grad.abs().sum() > 0
    assert items.grad.abs().sum() > 0
