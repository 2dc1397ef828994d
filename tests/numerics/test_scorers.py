"""Scorers against the formulas, in Python floats."""

from __future__ import annotations

import pytest
import torch

from twotower.core.errors import InputError
from twotower.scorers.flat_fc import FlatFC
from twotower.scorers.heads import HeadScorer, head_scorer
from twotower.scorers.lss import LSS
from twotower.scorers.mlp_scorer import MLPScorer
from twotower.scorers.sum_max import SumMax
from twotower.scorers.tiles import in_tiles

HEADS = [(1, 1), (2, 2), (3, 5), (5, 3), (4, 1)]


def slow_similarity(user, item):
    return [[sum(a * b for a, b in zip(z_u, z_v, strict=True)) for z_v in item] for z_u in user]


def slow_sum_max(similarity):
    return sum(max(row) for row in similarity)


def slow_lss(similarity, w1, b1, w2, b2, w):
    hidden = len(b1)
    first = [
        [max(0.0, sum(w1[k][j] * row[j] for j in range(len(row))) + b1[k]) for k in range(hidden)] for row in similarity
    ]
    second = [
        [max(0.0, sum(w2[k][i] * first[i][j] for i in range(len(first))) + b2[k]) for j in range(hidden)]
        for k in range(hidden)
    ]
    return sum(w[k * hidden + j] * second[k][j] for k in range(hidden) for j in range(hidden))


def slow_flat_fc(similarity, w3, b3, w):
    flat = [value for row in similarity for value in row]
    hidden = [sum(a * b for a, b in zip(row, flat, strict=True)) + bias for row, bias in zip(w3, b3, strict=True)]
    return sum(a * b for a, b in zip(w, hidden, strict=True))


def states(user_heads, item_heads, dim=3, users=2, items=4):
    return (
        torch.randn(users, user_heads, dim, dtype=torch.float64),
        torch.randn(items, item_heads, dim, dtype=torch.float64),
    )


def compare(scorer, users, items, slow):
    expected = [[slow(slow_similarity(u, i)) for i in items.tolist()] for u in users.tolist()]
    torch.testing.assert_close(
        scorer(users, items), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize(("user_heads", "item_heads"), HEADS)
def test_sum_max(user_heads, item_heads):
    compare(HeadScorer(SumMax()), *states(user_heads, item_heads), slow_sum_max)


@pytest.mark.parametrize(("user_heads", "item_heads"), HEADS)
def test_lss_fits_any_number_of_heads(user_heads, item_heads):
    lss = LSS(user_heads=user_heads, item_heads=item_heads, hidden=7).double()
    weights = [
        part.tolist()
        for part in (lss.rows.weight, lss.rows.bias, lss.columns.weight, lss.columns.bias, lss.projection.weight[0])
    ]
    compare(HeadScorer(lss), *states(user_heads, item_heads), lambda s: slow_lss(s, *weights))


@pytest.mark.parametrize(("user_heads", "item_heads"), HEADS)
def test_flat_fc(user_heads, item_heads):
    flat = FlatFC(user_heads=user_heads, item_heads=item_heads, hidden=6).double()
    weights = [part.tolist() for part in (flat.layer.weight, flat.layer.bias, flat.projection.weight[0])]
    compare(HeadScorer(flat), *states(user_heads, item_heads), lambda s: slow_flat_fc(s, *weights))


def test_dot_of_one_head_is_the_inner_product():
    users, items = states(1, 1)
    scorer = head_scorer("dot", user_heads=1, item_heads=1)
    torch.testing.assert_close(scorer(users, items), users[:, 0] @ items[:, 0].T)


def test_mlp_scorer_is_a_network_over_both_vectors_joined():
    scorer = MLPScorer(dim=3, hidden=(5, 4)).double()
    users, items = torch.randn(2, 3, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    weight = torch.cat([scorer.user_part.weight, scorer.item_part.weight], dim=1)
    for u in range(2):
        for i in range(6):
            hidden = weight @ torch.cat([users[u], items[i]]) + scorer.user_part.bias
            for layer in scorer.rest:
                hidden = layer.weight @ hidden.clamp(min=0) + layer.bias
            assert scorer(users, items)[u, i].item() == pytest.approx(hidden.item(), rel=1e-12)


@pytest.mark.parametrize("reduction", [LSS, FlatFC])
def test_gradients_of_learnt_reductions(reduction):
    module = reduction(user_heads=2, item_heads=3, hidden=4).double()
    similarity = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, (similarity,))


def test_lss_learns_what_sum_max_cannot():
    """The similarity of crossed heads with a minus sign: no sum of largest values can be that."""
    users, items = torch.randn(256, 2, 4), torch.randn(256, 2, 4)
    target = (users[:, 0] * items[:, 0]).sum(1) - (users[:, 1] * items[:, 1]).sum(1)
    scorer = head_scorer("lss", user_heads=2, item_heads=2, hidden=16)
    optimizer = torch.optim.Adam(scorer.parameters(), lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        loss = (scorer.pairs(users, items) - target).square().mean()
        loss.backward()
        optimizer.step()
    sum_max_error = (HeadScorer(SumMax()).pairs(users, items) - target).square().mean()
    assert loss < 0.2 * target.var()
    assert sum_max_error > target.var()


@pytest.mark.parametrize("pairs", [1, 3, 4, 7, 100])
def test_tiles_have_no_effect(pairs):
    users, items = states(2, 3, users=5, items=7)
    scorer = head_scorer("lss", user_heads=2, item_heads=3).double()
    torch.testing.assert_close(in_tiles(scorer, users, items, pairs=pairs), scorer(users, items))


@pytest.mark.bad_input
def test_bad_input_is_told_in_one_line():
    with pytest.raises(InputError, match="did you mean 'sum_max'"):
        head_scorer("summax", user_heads=2, item_heads=2)
    with pytest.raises(ValueError, match="one head a side, got 2 and 1"):
        head_scorer("dot", user_heads=2, item_heads=1)
    with pytest.raises(ValueError, match="at least 1"):
        head_scorer("lss", user_heads=0, item_heads=1)
    scorer = head_scorer("sum_max", user_heads=2, item_heads=2)
    with pytest.raises(InputError, match="of one dim"):
        scorer(torch.zeros(1, 2, 4), torch.zeros(1, 2, 5))
    with pytest.raises(InputError, match="another model's states"):
        scorer(torch.zeros(1, 4), torch.zeros(1, 4))
    with pytest.raises(InputError, match="another model's states"):
        scorer((torch.zeros(1, 2, 4),), torch.zeros(1, 2, 4))
    with pytest.raises(InputError, match="vectors of width 3"):
        MLPScorer(dim=3)(torch.zeros(1, 3), torch.zeros(2, 4))
