"""The loop in C against the scorer's formula in Python floats, and what it must refuse before it reads memory."""

from __future__ import annotations

import shutil

import pytest
import torch

from twotower.core.errors import InputError
from twotower.models.fit import FIT
from twotower.models.fit_native import NativeScores
from twotower.models.fit_states import FITItems, compact
from twotower.scorers.heads import head_scorer

QUERIES, ITEMS, DIM = 5, 1_300, 6  # more items than two threads are woken for, in no whole number of blocks

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


def slow_scores(lss, users, index, heads, ids):
    """Equations 13 to 16, a pair at a time, in Python floats."""
    rows, row_bias = lss.rows.weight.tolist(), lss.rows.bias.tolist()
    columns, column_bias = lss.columns.weight.tolist(), lss.columns.bias.tolist()
    projection = lss.projection.weight.flatten().tolist()
    found = []
    for item in ids.tolist():
        user, other = users[int(index[item])].tolist(), heads[item].tolist()
        similar = [[sum(a * b for a, b in zip(u, v, strict=True)) for v in other] for u in user]
        first = [
            [
                max(0.0, b + sum(w * s for w, s in zip(row, one, strict=True)))
                for row, b in zip(rows, row_bias, strict=True)
            ]
            for one in similar
        ]
        score = 0.0
        for g, (column, bias) in enumerate(zip(columns, column_bias, strict=True)):
            for h in range(len(rows)):
                mixed = bias + sum(w * first[u][h] for u, w in enumerate(column))
                score += projection[g * len(rows) + h] * max(0.0, mixed)
        found.append(score)
    return torch.tensor(found, dtype=torch.float64)


def drawn(user_heads=3, item_heads=2, *, dtype=torch.float32, queries=QUERIES):
    scorer = head_scorer("lss", user_heads=user_heads, item_heads=item_heads, hidden=4).to(dtype)
    users = torch.randn(queries, user_heads, DIM, dtype=dtype)
    index = torch.randint(queries, (ITEMS,), dtype=torch.uint8 if queries <= 256 else torch.int16)
    items = FITItems(index, torch.randn(ITEMS, item_heads, DIM, dtype=dtype))
    return scorer, users, items


@pytest.mark.parametrize("count", [1, 15, 16, 17, 1_200])
@pytest.mark.parametrize(("user_heads", "item_heads"), [(1, 1), (2, 2), (3, 2), (1, 4)])
def test_the_loop_is_the_formula(count, user_heads, item_heads):
    scorer, users, items = drawn(user_heads, item_heads, dtype=torch.float64)
    ids = torch.randperm(ITEMS)[:count]
    found = NativeScores(scorer)(users, ids, items.query_index, items.heads, None)
    torch.testing.assert_close(found, slow_scores(scorer.reduction, users, *items, ids), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_states_are_read_as_they_are_stored(precision):
    scorer, users, items = drawn()
    small = compact(items, precision)
    whole = small.heads.double()
    if precision == "int8":
        whole = whole * small.step.double()[:, None, None]
    ids = torch.randperm(ITEMS)[:40]
    found = NativeScores(scorer)(users, ids, small.query_index, small.heads, getattr(small, "step", None))
    expected = slow_scores(scorer.double().reduction, users.double(), small.query_index, whole, ids)
    torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-5)


def test_many_queries():
    scorer, users, items = drawn(dtype=torch.float64, queries=300)
    ids = torch.arange(50)
    found = NativeScores(scorer)(users, ids, items.query_index, items.heads, None)
    torch.testing.assert_close(found, slow_scores(scorer.reduction, users, *items, ids))


def test_states_in_any_layout():
    scorer, users, items = drawn(dtype=torch.float64)
    ids = torch.arange(0, 60, 2)
    native = NativeScores(scorer)
    turned = items.heads.mT.contiguous().mT
    assert not turned.is_contiguous()
    every_second = torch.arange(60)[::2]
    expected = native(users, ids, items.query_index, items.heads, None)
    torch.testing.assert_close(native(users, every_second.int(), items.query_index, turned, None), expected)


def test_a_number_that_is_none_stays_so():
    scorer, users, items = drawn(dtype=torch.float64)
    items.heads[7] = torch.nan
    found = NativeScores(scorer)(users, torch.tensor([6, 7, 8]), items.query_index, items.heads, None)
    assert found.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_change_nothing(threads):
    scorer, users, items = drawn()
    native, ids, before = NativeScores(scorer), torch.arange(ITEMS), torch.get_num_threads()
    parts = torch.cat([native(users, part, items.query_index, items.heads, None) for part in ids.split(100)])
    try:
        torch.set_num_threads(threads)
        assert torch.equal(native(users, ids, items.query_index, items.heads, None), parts)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("wrong", [-1, ITEMS, 2**40])
def test_an_id_that_is_no_row(wrong):
    scorer, users, items = drawn()
    with pytest.raises(InputError, match=f"not a row of the {ITEMS} item states"):
        NativeScores(scorer)(users, torch.tensor([3] * 20 + [wrong]), items.query_index, items.heads, None)


def test_states_of_another_model():
    scorer, users, items = drawn()
    native, ids = NativeScores(scorer), torch.tensor([2, 3])
    with pytest.raises(InputError, match="names a query beyond the model's 5"):
        native(users, ids, torch.full((ITEMS,), 5, dtype=torch.uint8), items.heads, None)
    with pytest.raises(InputError, match=r"item states .* are another model's: this one has 2 heads of 6"):
        native(users, ids, items.query_index, items.heads.repeat(1, 2, 1), None)
    with pytest.raises(InputError, match=r"item states .* are another model's"):
        native(users, ids, items.query_index[:9], items.heads, None)
    with pytest.raises(InputError, match=r"item states .* of torch.bfloat16 are another model's"):
        native(users, ids, items.query_index, items.heads.bfloat16(), None)
    with pytest.raises(InputError, match="user states .* of torch.float64 are another model's"):
        native(users.double(), ids, items.query_index, items.heads, None)


def test_no_compiler_and_one_that_fails(monkeypatch):
    scorer, users, items = drawn()
    monkeypatch.setenv("CC", "no-such-compiler -m64")
    with pytest.raises(InputError, match="no C compiler 'no-such-compiler': install gcc or clang"):
        NativeScores(scorer)
    monkeypatch.setenv("CC", "cc --no-such-option")
    native = NativeScores(scorer)
    with pytest.raises(InputError, match="cc --no-such-option could not compile fit_scores.c: .*no-such-option"):
        native(users, torch.tensor([2]), items.query_index, items.heads, None)


def test_only_the_learnt_scorer_is_compiled():
    with pytest.raises(InputError, match="only the scorer 'lss' is compiled"):
        NativeScores(head_scorer("sum_max", user_heads=2, item_heads=2, hidden=4))


def test_in_the_model(tiny_dataset):
    """A request of one user goes through the loop, others do not; gradients are not cut; training drops it."""
    model = FIT(
        tiny_dataset.schema, field_dim=4, hidden=(11, 9), dim=6, user_heads=3, meta_queries=5, scorer_dim=4
    ).eval()
    model.attach_items(tiny_dataset.all_items())
    users = tiny_dataset.users(torch.tensor([2, 3]), torch.tensor([[2, 3, 4], [5, 0, 0]]))
    ids = torch.tensor([2, 5, 7, 9])
    states, items = model.encode_users(users), model.encode_items(tiny_dataset.all_items())
    plain = model.score_among(states, items, ids)
    model.compile_scoring()
    with torch.inference_mode():
        torch.testing.assert_close(model.score_among(states[:1], items, ids), plain[:1])
        torch.testing.assert_close(model.score_among(states, items, ids), plain)
    assert model._compiled._kernels
    assert model.score_among(states[:1], items, ids).requires_grad
    model.train()
    assert model._compiled is None
