"""The loop in C against the scorer's formula in Python floats, and what it must refuse before it reads memory."""

from __future__ import annotations

import copy
import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch

from twotower.core.errors import InputError
from twotower.models.fit import native
from twotower.models.fit.model import FIT
from twotower.models.fit.native import NativeScores
from twotower.models.fit.states import FITItems, PairedHeads, compact
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
    found = NativeScores(scorer, DIM)(users, ids, items.query_index, items.heads, None)
    torch.testing.assert_close(found, slow_scores(scorer.reduction, users, *items, ids), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_states_are_read_as_they_are_stored(precision):
    scorer, users, items = drawn()
    small = compact(items, precision)
    whole = small.heads.double()
    if precision == "int8":
        whole = whole * small.step.double()[:, None, None]
    ids = torch.randperm(ITEMS)[:40]
    found = NativeScores(scorer, DIM)(users, ids, small.query_index, small.heads, getattr(small, "step", None))
    expected = slow_scores(scorer.double().reduction, users.double(), small.query_index, whole, ids)
    torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-5)


def test_many_queries():
    scorer, users, items = drawn(dtype=torch.float64, queries=300)
    ids = torch.arange(50)
    found = NativeScores(scorer, DIM)(users, ids, items.query_index, items.heads, None)
    torch.testing.assert_close(found, slow_scores(scorer.reduction, users, *items, ids))


def test_states_in_any_layout():
    scorer, users, items = drawn(dtype=torch.float64)
    small = compact(items, "int8")
    ids = torch.arange(0, 60, 2)
    native = NativeScores(scorer, DIM)
    expected = native(users, ids, small.query_index, small.heads, small.step)
    strided = [torch.stack([part, part], dim=-1)[..., 0] for part in (users, ids, *small)]
    assert not any(part.is_contiguous() for part in strided)
    assert torch.equal(native(strided[0], strided[1], *strided[2:]), expected)
    assert torch.equal(native(users, ids.int(), small.query_index.short(), small.heads, small.step), expected)


def test_a_number_that_is_none_stays_so():
    scorer, users, items = drawn(dtype=torch.float64)
    items.heads[7] = torch.nan
    found = NativeScores(scorer, DIM)(users, torch.tensor([6, 7, 8]), items.query_index, items.heads, None)
    assert found.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_change_nothing(threads):
    scorer, users, items = drawn()
    native, ids, before = NativeScores(scorer, DIM), torch.arange(ITEMS), torch.get_num_threads()
    parts = torch.cat([native(users, part, items.query_index, items.heads, None) for part in ids.split(100)])
    try:
        torch.set_num_threads(threads)
        assert torch.equal(native(users, ids, items.query_index, items.heads, None), parts)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("wrong", [-1, ITEMS, 2**40, -(2**62)])
@pytest.mark.parametrize("place", [0, 20, 1_199])
def test_an_id_that_is_no_row(wrong, place):
    scorer, users, items = drawn()
    ids = torch.arange(1_200)
    ids[place] = wrong
    with pytest.raises(InputError, match=f"not a row of the {ITEMS} item states"):
        NativeScores(scorer, DIM)(users, ids, items.query_index, items.heads, None)


@pytest.mark.parametrize("place", [0, 1_199])
def test_a_query_that_is_none(place):
    scorer, users, items = drawn()
    items.query_index[place] = QUERIES
    with pytest.raises(InputError, match="names a query beyond the model's 5"):
        NativeScores(scorer, DIM)(users, torch.arange(1_200), items.query_index, items.heads, None)


@pytest.mark.bad_input
def test_states_of_another_model_and_ids_that_are_none():
    scorer, users, items = drawn()
    index, heads = items
    small, native, ids = compact(items, "int8"), NativeScores(scorer, DIM), torch.tensor([2, 3])
    for part in (heads.repeat(1, 2, 1), heads[:9], heads[:, :, :4], heads.bfloat16()):
        with pytest.raises(InputError, match=r"item states .* are another model's, or their parts differ in length"):
            native(users, ids, index, part, None)
    for wrong in (index[:9], index.float(), index[:, None]):
        with pytest.raises(InputError, match="parts differ in length: this model has 2 heads of 6"):
            native(users, ids, wrong, heads, None)
    for step in (small.step[:9], small.step.bfloat16()):
        with pytest.raises(InputError, match="parts differ in length"):
            native(users, ids, index, small.heads, step)
    for queries in (users.double(), users[:, :2]):
        with pytest.raises(InputError, match=r"user states .* are another model's"):
            native(queries, ids, index, heads, None)
    for wrong in (ids.float(), ids > 2, ids[None]):
        with pytest.raises(InputError, match="ids are whole numbers"):
            native(users, wrong, index, heads, None)
    with pytest.raises(InputError, match="the model is on a CPU, but states or ids on 'meta'"):
        native(users, ids, index, heads.to("meta"), None)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("no-such-compiler -m64", "no C compiler 'no-such-compiler': install gcc or clang"),
        ("'cc", "the variable CC is no command"),
        ("cc --no-such-option", "cc --no-such-option could not compile scores.c: .*no-such-option"),
        ("true", "what true made of scores.c cannot be used: .*TMPDIR"),
        ("cc -c", "what cc -c made of scores.c cannot be used"),
        ("cc -Dscores=other", "cannot be used: .*undefined symbol: scores"),
    ],
)
def test_no_compiler_and_one_that_fails(command, said, monkeypatch):
    monkeypatch.setenv("CC", command)
    with pytest.raises(InputError, match=said):
        NativeScores(drawn()[0], DIM)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_a_compiler_of_another_language(monkeypatch):
    monkeypatch.setenv("CC", "g++")
    scorer, users, items = drawn(dtype=torch.float64)
    found = NativeScores(scorer, DIM)(users, torch.arange(40), items.query_index, items.heads, None)
    torch.testing.assert_close(found, slow_scores(scorer.reduction, users, *items, torch.arange(40)))


def test_a_scorer_that_has_no_loop():
    with pytest.raises(InputError, match="too wide to compile: 70 user heads times 2048"):
        NativeScores(head_scorer("lss", user_heads=70, item_heads=1, hidden=2048), DIM)
    with pytest.raises(InputError, match="no loop in C for weights of torch.bfloat16"):
        NativeScores(drawn()[0].bfloat16(), DIM)


def test_only_the_learnt_scorer_is_compiled():
    with pytest.raises(InputError, match="only the scorer 'lss' is compiled"):
        NativeScores(head_scorer("sum_max", user_heads=2, item_heads=2, hidden=4), DIM)


def made(dataset) -> FIT:
    model = FIT(dataset.schema, field_dim=4, hidden=(11, 9), dim=6, user_heads=3, meta_queries=5, scorer_dim=4).eval()
    model.attach_items(dataset.all_items())
    return model


def states_of(model, dataset):
    """Of one user, and of all items."""
    users = dataset.users(torch.tensor([2]), torch.tensor([[2, 3, 4]]))
    return model.encode_users(users), model.encode_items(dataset.all_items())


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_in_the_model(tiny_dataset, precision, monkeypatch):
    """A request of one user goes through the loop; others and those with gradients do not."""
    model, ids = made(tiny_dataset), torch.tensor([2, 5, 7, 9])
    users = tiny_dataset.users(torch.tensor([2, 3]), torch.tensor([[2, 3, 4], [5, 0, 0]]))
    states, items = model.encode_users(users), compact(model.encode_items(tiny_dataset.all_items()), precision)
    plain = model.score_among(states, items, ids)
    model.compile_scoring()
    asked = []
    loop = NativeScores.__call__
    monkeypatch.setattr(NativeScores, "__call__", lambda *given: asked.append(1) or loop(*given))
    with torch.inference_mode():
        torch.testing.assert_close(model.score_among(states[:1], items, ids), plain[:1])
        assert len(asked) == 1
        torch.testing.assert_close(model.score_among(states, items, ids), plain)
    assert model.score_among(states[:1], items, ids).requires_grad
    assert len(asked) == 1


@pytest.mark.bad_input
def test_a_compiled_model_refuses_users_made_for_a_pair(tiny_dataset):
    model = made(tiny_dataset)
    model.compile_scoring()
    with torch.inference_mode(), pytest.raises(InputError, match="made for their own item"):
        items = model.encode_items(tiny_dataset.all_items())
        model.score_among(PairedHeads(torch.zeros(1, 3, 3)), items, torch.tensor([2]))


def test_what_was_compiled_goes_with_the_weights(tiny_dataset):
    model = made(tiny_dataset)
    other = torch.nn.ModuleDict({"part": made(tiny_dataset)}).state_dict()
    for change in (
        lambda: model.train(),
        lambda: model.load_state_dict(made(tiny_dataset).state_dict()),
        lambda: torch.nn.ModuleDict({"part": model}).load_state_dict(other),
        lambda: model.double().float(),
        lambda: model.attach_items(tiny_dataset.all_items()),
    ):
        model.prepare_serving()
        model.compile_scoring()
        before = model.prepared
        assert before.tables is not None
        assert before.scores is not None
        change()
        assert model.prepared == (None, None, None)
        assert model.prepared is not before


def test_preparing_compiles_anew(tiny_dataset):
    model = made(tiny_dataset)
    model.compile_scoring()
    with torch.inference_mode():
        states, items = states_of(model, tiny_dataset)
        model.scorer.reduction.projection.weight.mul_(2.0)
        expected = model.score(states, items)
        model.prepare_serving()
        assert model.prepared.scores is not None
        torch.testing.assert_close(model.score_among(states, items, torch.arange(10)), expected)


def test_a_compiled_model_can_be_copied(tiny_dataset):
    model = made(tiny_dataset)
    model.compile_scoring()
    with torch.inference_mode():
        states, items = states_of(model, tiny_dataset)
        first = model.score_among(states, items, torch.arange(10))
        assert torch.equal(copy.deepcopy(model).score_among(states, items, torch.arange(10)), first)


@pytest.mark.skipif(os.name != "posix", reason="rights as Unix has them")
def test_the_loop_is_compiled_and_loaded_where_nobody_else_may_write(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tmp_path.chmod(0o777)
    before, places = os.umask(0), []

    def compile_(command, **options):
        library = Path(command[-1])
        places.append((library.parent.stat(), list(library.parent.iterdir())))
        return run(command, **options)

    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", compile_)
    try:
        native.build.__wrapped__(("cc",), (2, 3, 5), torch.float32, (DIM, torch.uint8, torch.float32, None))
    finally:
        os.umask(before)
    for place, content in places:
        assert (place.st_uid, stat.S_IMODE(place.st_mode)) == (os.getuid(), 0o700)
        assert not content
    assert not list(tmp_path.iterdir())
