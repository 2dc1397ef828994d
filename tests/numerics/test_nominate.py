"""Nominate and rank against loops."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from twotower.core.errors import InputError
from twotower.index.exact import ExactIndex
from twotower.index.list_report import report_lists
from twotower.index.nominate import Nominate
from twotower.index.user_vectors import score_profile

USERS, ITEMS, DIM = 60, 80, 6


class Pair(NamedTuple):
    """A state of two parts."""

    left: Tensor
    right: Tensor


def two_part_score(users: Pair, items: Pair) -> Tensor:
    """No inner product of anything: the larger of two."""
    return torch.maximum(users.left @ items.left.T, users.right @ items.right.T)


def pairs(count: int) -> Pair:
    return Pair(torch.randn(count, 3), torch.randn(count, 4))


@pytest.fixture
def users() -> Tensor:
    return torch.randn(USERS, DIM)


@pytest.fixture
def items() -> Tensor:
    return torch.randn(ITEMS, DIM)


@pytest.fixture
def ids() -> Tensor:
    return torch.arange(ITEMS) * 2 + 2


@pytest.fixture(params=["numpy", "numba"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "numba":
        pytest.importorskip("numba")
    return str(request.param)


def test_answers_are_the_models_best_among_the_nearest_lists(users, items, ids, backend):
    index = Nominate(users, codes=10, longest=12, nearest=3, backend=backend)
    shuffled = torch.randperm(ITEMS)
    index.build(items[shuffled], ids[shuffled])
    exclude = ids[torch.randint(ITEMS, (USERS, 4))]
    allowed = torch.rand(ITEMS) < 0.8
    found = index.search(users, 7, exclude, allowed=allowed)
    centres, wide = index.centres.double(), items.double()
    for user in range(USERS):
        distance = (users[user].double() - centres).square().sum(1)
        candidates = set()
        for code in sorted(range(10), key=lambda code: distance[code].item())[:3]:
            candidates |= set((wide @ centres[code]).argsort(descending=True)[:12].tolist())
        candidates = {c for c in candidates if allowed[c] and ids[c] not in exclude[user]}
        score = {c: (wide[c] @ users[user].double()).item() for c in candidates}
        best = sorted(candidates, key=lambda c: (-score[c], c))[:7]
        assert found.ids[user].tolist() == [int(ids[c]) for c in best] + [-1] * (7 - len(best))
        assert found.scores[user, : len(best)].tolist() == pytest.approx([score[c] for c in best], abs=1e-5)


def test_loops_answer_as_the_models_own_score_does_and_see_what_is_added_and_removed(users, items, ids):
    pytest.importorskip("numba")
    both = [Nominate(users, codes=10, longest=12, nearest=3, backend=name) for name in ("numpy", "numba")]
    exclude = torch.cat([ids[torch.randint(ITEMS, (USERS, 4))], torch.tensor([[-1, 1, 9999]]).expand(USERS, 3)], 1)

    def agree() -> None:
        one, other = (index.search(users, 9, exclude) for index in both)
        assert one.ids.equal(other.ids)
        torch.testing.assert_close(one.scores, other.scores)

    for index in both:
        index.build(items[:70], ids[:70])
    agree()
    for index in both:
        index.add(items[70:], ids[70:])
    agree()
    for index in both:
        index.remove(ids[3:9])
    agree()
    with pytest.raises(InputError, match="lists of another model"):
        both[1].search(torch.randn(2, DIM + 1), 3)


@pytest.mark.parametrize("k", [1, 30, 400])
def test_loops_rank_thousands_of_candidates_with_ties_as_the_model_does(k):
    pytest.importorskip("numba")
    users, items = torch.randint(-2, 3, (40, 5)).float(), torch.randint(-2, 3, (2000, 5)).float()
    both = [Nominate(users, codes=6, longest=900, nearest=4, backend=name) for name in ("numpy", "numba")]
    for index in both:
        index.build(items, torch.arange(2000) + 2)
    one, other = (index.search(users, k, torch.arange(2, 42)[:, None]) for index in both)
    assert one.ids.equal(other.ids)
    assert one.scores.equal(other.scores)


def test_lists_of_all_items_give_the_exact_answer(users, items, ids):
    index, exact = Nominate(users, codes=5, longest=ITEMS, nearest=1), ExactIndex()
    for each in (index, exact):
        each.build(items, ids)
    assert index.search(users, 9, ids[:USERS, None]).ids.equal(exact.search(users, 9, ids[:USERS, None]).ids)
    assert not index.is_exact
    assert index.lists.sparsity == 0.0


def test_a_model_without_an_inner_product_is_searched_by_its_own_score():
    users, items, ids = pairs(USERS), pairs(ITEMS), torch.arange(ITEMS) + 2
    index = Nominate(users, score=two_part_score, codes=8, longest=20, nearest=3, members=4)
    index.build(items, ids)
    truth = two_part_score(users, items).topk(10).indices + 2
    found = index.search(users, 10)
    kept = (found.ids[:, :, None] == truth[:, None]).any(2).float().mean().item()
    chance = len(index.lists.places) / 8 * 3 / ITEMS
    assert kept > min(0.9, chance + 0.1)
    own = two_part_score(users, items)
    torch.testing.assert_close(found.scores, own.gather(1, found.ids - 2))


def test_a_codes_score_is_the_mean_over_the_users_nearest_to_it(users, items, ids):
    index = Nominate(users, codes=4, longest=5, nearest=1, members=3)
    index.build(items, ids)
    for code, centre in enumerate(index.centres.double()):
        near = (users.double() - centre).square().sum(1).argsort()[:3]
        best = (users[near].double() @ items.double().T).mean(0).topk(5).indices
        part = slice(index.lists.offsets[code], index.lists.offsets[code + 1])
        assert sorted(index.lists.places[part].tolist()) == sorted(best.tolist())


def test_score_profiles_stand_for_vectors_where_states_are_none():
    histories, items = torch.randint(ITEMS, (USERS, 3)), torch.arange(ITEMS)
    table = torch.randn(ITEMS, ITEMS)

    def score(users: Tensor, chosen: Tensor) -> Tensor:
        return table[users].sum(1)[:, chosen]

    with pytest.raises(InputError, match="no vectors; hand over"):
        Nominate(histories, score=score, codes=4, members=2)
    vectors = score_profile(score, items, anchors=20)
    index = Nominate(histories, score=score, vectors=vectors, codes=6, longest=25, nearest=2, members=3)
    index.build(items, items + 2)
    found = index.search(histories, 5)
    assert found.scores.equal(score(histories, items).gather(1, found.ids - 2))


def test_items_come_and_go(users, items, ids):
    whole, grown = (Nominate(users, codes=10, longest=12, nearest=3) for _ in range(2))
    whole.build(items, ids)
    late = torch.randperm(ITEMS)[:20]
    early = torch.tensor(sorted(set(range(ITEMS)) - set(late.tolist())))
    grown.build(items[early], ids[early])
    grown.add(items[late], ids[late])
    one, other = whole.search(users, 8), grown.search(users, 8)
    # Lists keep scores as float16, so an added item may differ from another by rounding.
    assert (one.ids == other.ids).float().mean() > 0.97
    found = whole.search(users, 3).ids
    whole.remove(found[0])
    assert not torch.isin(whole.search(users, 8).ids, found[0]).any()
    assert len(whole) == ITEMS - 3


@pytest.mark.parametrize("members", [0, 2])
def test_a_saved_index_answers_alike(users, items, ids, members, tmp_path):
    index = Nominate(users, codes=10, longest=12, nearest=3, members=members)
    index.build(items, ids)
    index.save(tmp_path)
    again = Nominate.load(tmp_path)
    assert again.search(users, 9, ids[:USERS, None]).ids.equal(index.search(users, 9, ids[:USERS, None]).ids)
    assert report_lists(again.lists) == report_lists(index.lists)
    again.add(items[:1], torch.tensor([999]))
    assert 999 in again.search(items[:1], 20).ids
    path = tmp_path / "nominate.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="not an index of this kind"):
        Nominate.load(tmp_path)


def test_lists_of_another_model_are_refused(users, items, ids):
    index = Nominate(users, codes=10)
    index.build(items, ids)
    with pytest.raises(InputError, match="lists of another model"):
        index.search(torch.randn(2, DIM + 1), 3)


def test_too_few_users_and_other_bad_settings_are_said():
    with pytest.raises(InputError, match="3 users for 4 codes"):
        Nominate(torch.randn(3, 2), codes=4)
    with pytest.raises(InputError, match="at least 1"):
        Nominate(torch.randn(9, 2), nearest=0)
    with pytest.raises(InputError, match="set members to 1 or more"):
        Nominate(pairs(9), codes=2)
    with pytest.raises(InputError, match="no lists yet"):
        report_lists(Nominate(torch.randn(9, 2)).lists)
