"""What every index keeps, whatever it is made of. Add one by one line in `CASES`."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.states import take
from twotower.index.abilities import KeptElsewhere
from twotower.index.base import Index
from twotower.index.brute_force import BruteForceIndex
from twotower.index.exact import ExactIndex
from twotower.index.hnsw import HNSWIndex
from twotower.index.ivf import IVFFlatIndex, IVFPQIndex
from twotower.index.milvus import MilvusIndex
from twotower.index.nominate_index import NominateIndex
from twotower.index.postings_index import PostingsIndex
from twotower.index.postings_qdrant import PostingsQdrantEdgeIndex, PostingsQdrantIndex
from twotower.index.qdrant_edge import QdrantEdgeIndex
from twotower.index.qdrant_server import QdrantIndex
from twotower.index.sparse_codes import SparseCodesIndex
from twotower.index.tree_index import TreeIndex
from twotower.models.item_store import ItemStore

USERS, ITEMS, DIM = 5, 23, 4


class Heads(NamedTuple):
    """A state of two parts."""

    near: Tensor
    far: Tensor


def distance(users: Tensor, items: Tensor) -> Tensor:
    return -torch.cdist(users, items)


def two_heads(users: Heads, items: Heads) -> Tensor:
    return torch.maximum(users.near @ items.near.T, users.far @ items.far.T)


def by_ids(users: Tensor, items: Tensor) -> Tensor:
    """A score of two whole numbers of which nobody would make a vector."""
    return -((users[:, None, 0] * 7 - items[None, :, 0] * 3) % 23).float()


def vectors(rows: int, seed: int) -> Tensor:
    """Small whole numbers: every product is exact, and there are ties."""
    return torch.randint(-2, 3, (rows, DIM), generator=torch.Generator().manual_seed(seed)).float()


def heads(rows: int, seed: int) -> Heads:
    return Heads(vectors(rows, seed), vectors(rows, seed + 100))


def numbers(rows: int, seed: int) -> Tensor:
    return torch.randint(0, 99, (rows, 1), generator=torch.Generator().manual_seed(seed))


class Case(NamedTuple):
    """An index, how to read it back, states for it, and the score that it stands for."""

    make: Callable[[], Index]
    load: Callable[[Path], Index]
    states: Callable[[int, int], Any]
    score: Callable[[Any, Any], Tensor]


class Scorer(NamedTuple):
    """As much of a model as an index sees."""

    score: Callable[[Any, Any], Tensor]
    item_store: ItemStore
    user_kind: type[Any] | None = None
    inner_product: bool = False


class Chosen(NamedTuple):
    """A user as two codes."""

    codes: Tensor
    weights: Tensor


class ListScorer(NamedTuple):
    """As much of a model with lists as an index sees."""

    table: Tensor
    item_store: ItemStore = ItemStore()
    user_kind: type[Any] | None = Chosen
    inner_product: bool = False

    @property
    def num_lists(self) -> int:
        return len(self.table)

    def list_scores(self, codes: Tensor, items: Tensor) -> Tensor:
        return self.table[codes] @ items.T + 20

    def score(self, users: Chosen, items: Tensor) -> Tensor:
        return (users.weights[:, :, None] * self.list_scores(users.codes, items)).sum(1)


class UsersAreCodes(NamedTuple):
    """States of users and of items, each by its own function."""

    model: ListScorer

    def __call__(self, rows: int, seed: int) -> Any:
        if seed != 1:
            return vectors(rows, seed)
        codes = torch.arange(2 * rows).view(rows, 2) % self.model.num_lists
        return Chosen(codes, torch.full((rows, 2), 0.5))


class TreeScorer(NamedTuple):
    """As much of a model with a tree as an index sees: eight last nodes, and items laid out by their ids."""

    item_store: ItemStore = ItemStore()
    user_kind: type[Any] | None = None
    inner_product: bool = False
    branches: int = 2
    levels: int = 3

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        return distance(users, items)

    def score_rows(self, users: Tensor, items: Tensor) -> Tensor:
        return -(users[:, None] - items).square().sum(-1).sqrt()

    def nodes_above(self, ids: Tensor, states: Tensor) -> Tensor:
        return ids % 8

    def node_states(self, level: int) -> Tensor:
        return vectors(2**level, level)


TREE = TreeScorer()
DISTANCE, TWO_HEADS = Scorer(distance, ItemStore()), Scorer(two_heads, ItemStore(Heads), Heads)
PRODUCT, BY_IDS = Scorer(lambda u, i: u @ i.T, ItemStore(), None, True), Scorer(by_ids, ItemStore())


def brute_force(model: Scorer, states: Callable[[int, int], Any]) -> Case:
    return Case(lambda: BruteForceIndex(model), lambda f: BruteForceIndex.load(f, model=model), states, model.score)


def nominate(model: Scorer, states: Callable[[int, int], Any]) -> Case:
    def make() -> NominateIndex:
        index = NominateIndex(model, codes=6, longest=9, nearest=2)
        index.read_users(states(40, 7))
        return index

    return Case(make, lambda f: NominateIndex.load(f, model=model), states, model.score)


def postings(kind: type[PostingsIndex] = PostingsIndex, **settings: Any) -> Case:
    model = ListScorer(vectors(8, 40))
    return Case(
        lambda: kind(model, **settings),
        lambda f: kind.load(f, model=model),
        UsersAreCodes(model),
        model.score,
    )


def sparse_codes() -> SparseCodesIndex:
    return SparseCodesIndex(codes=12, active=3, read=2, rerank=2)


CASES = {
    "exact": Case(ExactIndex, ExactIndex.load, vectors, lambda u, i: u @ i.T),
    "hnsw": Case(HNSWIndex, HNSWIndex.load, vectors, lambda u, i: u @ i.T),
    "ivf_flat": Case(IVFFlatIndex, IVFFlatIndex.load, vectors, lambda u, i: u @ i.T),
    "ivf_pq": Case(IVFPQIndex, IVFPQIndex.load, vectors, lambda u, i: u @ i.T),
    "milvus": Case(MilvusIndex, MilvusIndex.load, vectors, lambda u, i: u @ i.T),
    "qdrant": Case(QdrantIndex, QdrantIndex.load, vectors, lambda u, i: u @ i.T),
    "qdrant_edge": Case(QdrantEdgeIndex, QdrantEdgeIndex.load, vectors, lambda u, i: u @ i.T),
    "nominate": nominate(PRODUCT, vectors),
    "nominate_distance": nominate(DISTANCE, vectors),
    "nominate_heads": nominate(TWO_HEADS, heads),
    "nominate_ids": nominate(BY_IDS, numbers),
    "postings": postings(longest=9),
    "postings_bytes": postings(longest=9, precision="uint8"),
    "postings_qdrant": postings(PostingsQdrantIndex, longest=9),
    "postings_qdrant_edge": postings(PostingsQdrantEdgeIndex, longest=9),
    "sparse_codes": Case(sparse_codes, SparseCodesIndex.load, vectors, lambda u, i: u @ i.T),
    "tree": Case(lambda: TreeIndex(TREE, beam=2), lambda f: TreeIndex.load(f, model=TREE), vectors, TREE.score),
    "brute_force": brute_force(DISTANCE, vectors),
    "brute_force_heads": brute_force(TWO_HEADS, heads),
}

NEEDS = {"milvus": "pymilvus", "qdrant": "qdrant_client", "qdrant_edge": "qdrant_edge"}
NEEDS |= {f"postings_{kind}": NEEDS[kind] for kind in ("qdrant", "qdrant_edge")}
"""What a kind needs beside the package's own dependencies."""


def slow_search(scores: Tensor, ids: list[int], k: int, exclude: list[list[int]]) -> list[list[int]]:
    answers = []
    for row, unwanted in zip(scores.tolist(), exclude, strict=True):
        best = sorted((-s, i) for s, i in zip(row, ids, strict=True) if i not in unwanted and s > -math.inf)
        answers.append([i for _, i in best[:k]] + [-1] * (k - len(best)))
    return answers


pytestmark = pytest.mark.filterwarnings("ignore:Local mode performs exact")  # the Qdrant client in memory


@pytest.fixture(params=CASES)
def case(request, monkeypatch) -> Case:
    monkeypatch.setenv("TWOTOWER_QDRANT_URL", ":memory:")
    if needed := NEEDS.get(request.param):
        pytest.importorskip(needed)
    if request.param == "milvus":
        request.getfixturevalue("milvus")
    return CASES[request.param]


@pytest.fixture
def ids() -> Tensor:
    """In no order, with gaps."""
    return torch.randperm(1000, generator=torch.Generator().manual_seed(2))[:ITEMS]


NONE = [[] for _ in range(USERS)]


class TestIndex:
    """One class for all."""

    @pytest.mark.parametrize("k", [1, 6, ITEMS, ITEMS + 9])
    def test_answers_are_the_true_best(self, case, ids, k):
        index = case.make()
        items, users = case.states(ITEMS, 0), case.states(USERS, 1)
        index.build(items, ids)
        found = index.search(users, k)
        assert found.ids.shape == found.scores.shape == (USERS, k)
        assert found.ids.dtype == torch.int64
        if index.is_exact:
            assert found.ids.tolist() == slow_search(case.score(users, items), ids.tolist(), k, NONE)
        assert (found.scores == -math.inf).equal(found.ids == -1)

    def test_scores_are_those_of_the_ids(self, case, ids):
        index = case.make()
        items, users = case.states(ITEMS, 0), case.states(USERS, 1)
        index.build(items, ids)
        found = index.search(users, 4)
        place = {id: row for row, id in enumerate(ids.tolist())}
        for user in range(USERS):
            rows = torch.tensor([place[id] for id in found.ids[user].tolist()])
            expected = case.score(take(users, slice(user, user + 1)), take(items, rows))[0]
            torch.testing.assert_close(found.scores[user], expected)

    def test_excluded_items_never_come_back(self, case, ids):
        index = case.make()
        items, users = case.states(ITEMS, 0), case.states(USERS, 1)
        index.build(items, ids)
        exclude = torch.full((USERS, ITEMS + 2), -1)
        for user in range(USERS):
            exclude[user, : 5 * user] = ids[: 5 * user]
            exclude[user, -1] = 5000  # not there: no harm
        found = index.search(users, ITEMS, exclude)
        unwanted = [set(row) - {-1} for row in exclude.tolist()]
        for row, banned in zip(found.ids.tolist(), unwanted, strict=True):
            assert not banned & set(row)
        if index.is_exact:
            scores = case.score(users, items)
            assert found.ids.tolist() == slow_search(scores, ids.tolist(), ITEMS, [list(b) for b in unwanted])

    @pytest.mark.parametrize("form", ["mask", "ids"])
    def test_only_allowed_items_come_back(self, case, ids, form):
        index = case.make()
        items, users = case.states(ITEMS, 0), case.states(USERS, 1)
        index.build(items, ids)
        allowed = ids[3:12]
        mask = torch.zeros(int(allowed.max()) + 1, dtype=torch.bool)
        mask[allowed] = True
        listed = torch.cat([allowed, torch.tensor([4000])])  # an id that is not there: no harm
        exclude = allowed[:2].expand(USERS, 2)
        found = index.search(users, ITEMS, exclude, mask if form == "mask" else listed)
        left = sorted(allowed[2:].tolist())
        assert [sorted(i for i in row if i >= 0) for row in found.ids.tolist()] == [left] * USERS
        if index.is_exact:
            banned = [list(set(ids.tolist()) - set(left))] * USERS
            assert found.ids.tolist() == slow_search(case.score(users, items), ids.tolist(), ITEMS, banned)

    @pytest.mark.parametrize("number", [1, 4, 5, 12, ITEMS - 1, ITEMS])
    def test_few_or_many_may_come_back(self, case, ids, number):
        index = case.make()
        items, users = case.states(ITEMS, 0), case.states(USERS, 1)
        index.build(items, ids)
        found = index.search(users, ITEMS, allow=ids[:number])
        left = sorted(ids[:number].tolist())
        assert [sorted(i for i in row if i >= 0) for row in found.ids.tolist()] == [left] * USERS
        assert (found.scores == -math.inf).equal(found.ids == -1)
        if index.is_exact:
            rest = [ids[number:].tolist()] * USERS
            assert found.ids.tolist() == slow_search(case.score(users, items), ids.tolist(), ITEMS, rest)

    def test_with_nothing_allowed_nothing_comes_back(self, case, ids):
        index = case.make()
        index.build(case.states(ITEMS, 0), ids)
        for allow in (torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool), torch.tensor([5000])):
            found = index.search(case.states(USERS, 1), 3, allow=allow)
            assert found.ids.tolist() == [[-1] * 3] * USERS
            assert found.scores.tolist() == [[-math.inf] * 3] * USERS

    def test_the_order_of_building_has_no_effect(self, case, ids):
        items, users = case.states(ITEMS, 0), case.states(USERS, 1)
        first, second = case.make(), case.make()
        first.build(items, ids)
        order = torch.randperm(ITEMS)
        second.build(take(items, order), ids[order])
        assert first.search(users, 7).ids.equal(second.search(users, 7).ids)

    def test_added_items_are_found_and_replace_their_like(self, case, ids):
        items, users = case.states(ITEMS, 0), case.states(USERS, 1)
        whole, grown = case.make(), case.make()
        whole.build(items, ids)
        grown.build(take(items, slice(0, 9)), ids[:9])
        grown.add(take(case.states(ITEMS, 50), slice(9, 14)), ids[9:14])
        grown.add(take(items, slice(9, ITEMS)), ids[9:])
        assert grown.search(users, ITEMS).ids.equal(whole.search(users, ITEMS).ids)

    def test_removed_items_are_gone(self, case, ids):
        items, users = case.states(ITEMS, 0), case.states(USERS, 1)
        index, rest = case.make(), case.make()
        index.build(items, ids)
        index.remove(ids[4:10])
        keep = torch.tensor([*range(4), *range(10, ITEMS)])
        rest.build(take(items, keep), ids[keep])
        assert index.search(users, ITEMS).ids.equal(rest.search(users, ITEMS).ids)
        with pytest.raises(InputError, match=f"no item has id {int(ids[4])}"):
            index.remove(ids[4:5])

    def test_saved_and_loaded_it_answers_alike(self, case, ids, tmp_path):
        items, users = case.states(ITEMS, 0), case.states(USERS, 1)
        index = case.make()
        index.build(items, ids)
        index.save(tmp_path)
        loaded = case.load(tmp_path)
        assert loaded.settings == index.settings
        again = loaded.search(users, 6)
        assert again.ids.equal(index.search(users, 6).ids)
        assert again.scores.equal(index.search(users, 6).scores)

    def test_empty_it_answers_nothing(self, case, ids, tmp_path):
        users = case.states(USERS, 1)
        emptied = case.make()
        emptied.build(case.states(ITEMS, 0), ids)
        emptied.remove(ids)
        fresh = case.make()
        fresh.save(tmp_path)
        for index in (emptied, fresh, case.load(tmp_path)):
            found = index.search(users, 3, torch.full((USERS, 1), int(ids[0])))
            assert found.ids.tolist() == [[-1] * 3] * USERS
            assert found.scores.tolist() == [[-math.inf] * 3] * USERS
            index.add(case.states(1, 0), torch.tensor([8]))
            assert index.search(users, 1).ids.tolist() == [[8]] * USERS

    def test_no_users_no_answers(self, case, ids):
        index = case.make()
        index.build(case.states(ITEMS, 0), ids)
        assert index.search(case.states(0, 1), 3).ids.shape == (0, 3)

    def test_bad_calls_are_refused(self, case, ids, tmp_path):
        index = case.make()
        items, users = case.states(ITEMS, 0), case.states(USERS, 1)
        with pytest.raises(InputError, match="each state needs one id"):
            index.build(items, ids[:-1])
        with pytest.raises(InputError, match="more than once"):
            index.build(items, torch.zeros(ITEMS, dtype=torch.int64))
        with pytest.raises(InputError, match="must be 0 or more"):
            index.build(items, ids - 1000)
        index.build(items, ids)
        with pytest.raises(InputError, match="k must be at least 1"):
            index.search(users, 0)
        with pytest.raises(InputError, match="rows for 5 users"):
            index.search(users, 2, torch.zeros(USERS - 1, 1, dtype=torch.int64))
        for allow in (torch.ones(3), torch.ones(2, 2, dtype=torch.bool), torch.ones(3, dtype=torch.int32)):
            with pytest.raises(InputError, match="allow is a boolean mask over ids, or int64 ids"):
                index.search(users, 2, allow=allow)
        with pytest.raises(InputError, match="no such file"):
            case.load(tmp_path)


def test_states_of_another_kind_are_refused(tmp_path, ids):
    index = ExactIndex()
    index.build(vectors(ITEMS, 0), ids)
    index.save(tmp_path)
    with pytest.raises(InputError, match="not an index of this kind"):
        BruteForceIndex.load(tmp_path, model=TWO_HEADS)
    (tmp_path / "items.safetensors").write_bytes(b"nothing of the sort")
    with pytest.raises(InputError, match="not an index of this kind"):
        ExactIndex.load(tmp_path)


@pytest.mark.parametrize(("user_tile", "item_tile"), [(1, 1), (2, 7), (3, 100)])
def test_tiles_have_no_effect(monkeypatch, ids, user_tile, item_tile):
    index = ExactIndex()
    index.build(vectors(ITEMS, 0), ids)
    users, exclude = vectors(USERS, 1), ids[:10].view(USERS, 2)
    for allow in (None, ids[5:19]):
        with monkeypatch.context() as patch:
            whole = index.search(users, 9, exclude, allow)
            patch.setattr("twotower.index.scan.USER_TILE", user_tile)
            patch.setattr("twotower.index.scan.ITEM_TILE", item_tile)
            cut = index.search(users, 9, exclude, allow)
        assert cut.ids.equal(whole.ids)
        assert cut.scores.equal(whole.scores)


@pytest.mark.parametrize("kind", ["milvus", "qdrant"])
def test_a_collection_elsewhere_is_deleted_by_its_name_and_no_other_is(kind, request, monkeypatch):
    monkeypatch.setenv("TWOTOWER_QDRANT_URL", ":memory:")
    pytest.importorskip(NEEDS[kind])
    if kind == "milvus":
        request.getfixturevalue("milvus")
    one, other = CASES[kind].make(), CASES[kind].make()
    assert isinstance(one, KeptElsewhere)
    for index in (one, other):
        index.build(vectors(ITEMS, 0), torch.arange(ITEMS))
    assert one.delete_collection(one.collection)
    assert not one.delete_collection(one.collection), "it was there once"
    with pytest.raises(InputError, match="does not have collection"):
        one.ping()
    other.ping()
    assert int(other.search(vectors(1, 1), 1).ids) >= 0
