"""The approximate indexes against exact search: recall, filters, removal, files, small catalogues."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor

from twotower.core.errors import InputError
from twotower.index.approximate import ApproximateIndex
from twotower.index.exact import ExactIndex
from twotower.index.hnsw import HNSWIndex
from twotower.index.ivf import IVFFlatIndex, IVFPQIndex

USERS, ITEMS, DIM, K = 40, 6_000, 16, 10
KINDS = {"hnsw": HNSWIndex, "ivf_flat": IVFFlatIndex, "ivf_pq": IVFPQIndex}


def clustered(rows: int, seed: int) -> Tensor:
    """Vectors about 60 centres, of norm one, as those of a trained tower are."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(60, DIM, generator=torch.Generator().manual_seed(9))
    spread = 0.7 * torch.randn(rows, DIM, generator=generator)
    return torch.nn.functional.normalize(centres[torch.randint(60, (rows,), generator=generator)] + spread)


def recall(found: Tensor, true: Tensor) -> float:
    """Share of the true answers (all but -1) that were found."""
    pairs = zip(found.tolist(), true.tolist(), strict=True)
    hits = sum(len(set(row) & set(best) - {-1}) for row, best in pairs)
    return hits / max(int((true >= 0).sum()), 1)


@pytest.fixture(scope="module")
def items() -> Tensor:
    return clustered(ITEMS, 0)


@pytest.fixture(scope="module")
def ids() -> Tensor:
    return 2 + 3 * torch.randperm(ITEMS, generator=torch.Generator().manual_seed(4))


@pytest.fixture(scope="module")
def users() -> Tensor:
    return clustered(USERS, 1)


@pytest.fixture(scope="module")
def exact(items, ids) -> ExactIndex:
    index = ExactIndex()
    index.build(items, ids)
    return index


@pytest.fixture(scope="module", params=KINDS)
def index(request, items, ids) -> ApproximateIndex:
    """Not to be changed: it serves the whole module."""
    index = KINDS[request.param]()
    index.build(items, ids)
    return index


def share_of(ids: Tensor, share: float) -> Tensor:
    """Ids of this share of the items, drawn at random."""
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(6))
    return ids[order[: round(share * len(ids))]]


def test_nearly_all_of_the_true_best_are_found(index, exact, users):
    assert not index.is_exact
    assert recall(index.search(users, K).ids, exact.search(users, K).ids) > 0.95


@pytest.mark.parametrize("scan", [True, False], ids=["as it chooses", "by the structure alone"])
@pytest.mark.parametrize("share", [0.5, 0.05, 0.001, 0.0])
def test_filtered_answers_are_allowed_and_nearly_the_best(monkeypatch, index, exact, users, ids, share, scan):
    if not scan:
        monkeypatch.setattr("twotower.index.approximate.FEW", 0)
        monkeypatch.setattr("twotower.index.approximate.SHARE", 0.0)
    allowed = share_of(ids, share)
    exclude = allowed[:3].expand(USERS, -1)
    for banned in (None, exclude):
        found = index.search(users, K, banned, allowed)
        true = exact.search(users, K, banned, allowed)
        assert (found.ids >= 0).equal(true.ids >= 0)  # as many as there are
        gone = set() if banned is None else set(banned[0].tolist())
        assert set(found.ids.flatten().tolist()) <= (set(allowed.tolist()) - gone) | {-1}
        assert recall(found.ids, true.ids) > 0.9 or not share


@pytest.mark.parametrize("share", [0.5, 0.2, 0.07])
def test_a_filter_that_leaves_out_all_that_is_near_a_user_loses_nothing(index, exact, items, ids, users, share):
    """What passes lies far from where the graph or the lists begin: the best of it are found all the same."""
    found, true = [], []
    for user in users[:20]:
        allowed = ids[(items @ user).argsort()[: round(share * ITEMS)]]
        for answers, one in ((found, index), (true, exact)):
            answers.append(one.search(user[None], K, allow=allowed).ids[0])
    assert recall(torch.stack(found), torch.stack(true)) > 0.95


def test_users_of_one_tile_get_what_each_gets_alone_under_a_filter(index, items, ids, users):
    allowed = ids[(items @ users[0]).argsort()[: ITEMS // 2]]
    whole = index.search(users, K, allow=allowed)
    for place in range(0, USERS, 7):
        assert whole.ids[place].equal(index.search(users[place : place + 1], K, allow=allowed).ids[0])


def test_a_list_longer_than_the_search_is_wide_is_full(index, users):
    found = index.search(users[:3], 3_000)
    assert (found.ids >= 0).all()
    assert all(len(set(row)) == 3_000 for row in found.ids.tolist())
    assert (found.scores[:, 1:] <= found.scores[:, :-1]).all()


@pytest.mark.parametrize("number", [100, 500, 4_000, ITEMS - 3])
def test_however_many_of_the_best_are_excluded_the_next_come_back(index, exact, users, number):
    """The whole of what the search would find first is excluded: it has to look further."""
    exclude = exact.search(users[:5], number).ids
    found, true = index.search(users[:5], K, exclude), exact.search(users[:5], K, exclude)
    assert (found.ids >= 0).equal(true.ids >= 0)
    for row, banned in zip(found.ids.tolist(), exclude.tolist(), strict=True):
        assert not set(row) & set(banned)
    assert recall(found.ids, true.ids) > 0.9


def test_with_every_list_probed_flat_lists_are_exact(items, ids, users, exact):
    index = IVFFlatIndex(nprobe=10_000)
    index.build(items, ids)
    allowed = share_of(ids, 0.5)
    assert index.search(users, 50).ids.equal(exact.search(users, 50).ids)
    assert index.search(users, 50, allow=allowed).ids.equal(exact.search(users, 50, allow=allowed).ids)


def test_codes_are_scored_again_by_their_vectors(items, ids, users, exact):
    coarse, fine = IVFPQIndex(nprobe=10_000, rerank=1), IVFPQIndex(nprobe=10_000, rerank=40)
    true = exact.search(users, K)
    shares = []
    for index in (coarse, fine):
        index.build(items, ids)
        found = index.search(users, K)
        place = {id: row for row, id in enumerate(ids.tolist())}
        rows = torch.tensor([[place[id] for id in row] for row in found.ids.tolist()])
        torch.testing.assert_close(found.scores, (items[rows] @ users[:, :, None])[..., 0])
        shares.append(recall(found.ids, true.ids))
    assert shares[0] < 0.9 < 0.99 < shares[1]


def test_more_effort_finds_more_without_building_again(items, ids, users, exact):
    index = HNSWIndex(m=4, ef_construction=10, ef_search=1)
    index.build(items, ids)
    true = exact.search(users, K).ids
    little = recall(index.search(users, K).ids, true)
    index.set_effort(400)
    assert index.settings["ef_search"] == 400
    assert recall(index.search(users, K).ids, true) > little + 0.1


def test_no_answer_depends_on_who_else_asks(index, users, ids):
    exclude = torch.full((USERS, 2), -1)
    exclude[::2] = ids[:2]
    together = index.search(users, K, exclude)
    alone = [index.search(users[[u]], K, exclude[[u]]) for u in range(USERS)]
    assert together.ids.equal(torch.cat([one.ids for one in alone]))
    assert together.scores.equal(torch.cat([one.scores for one in alone]))  # to the last bit
    free = [index.search(users[[u]], K) for u in range(USERS)]
    assert index.search(users, K).scores.equal(torch.cat([one.scores for one in free]))


def test_one_who_asks_alone_reads_what_the_index_holds_by_then(items, ids, users):
    index = HNSWIndex(ef_search=200)
    index.build(items, ids)
    first = index.search(users[:1], 3).ids[0]
    index.remove(first[:1])
    assert index.search(users[:1], 2).ids[0].tolist() == first[1:].tolist()
    index.add(items[ids == first[0]], first[:1])
    assert index.search(users[:1], 3).ids[0].tolist() == first.tolist()
    assert index.search(users[:1], 2, torch.tensor([[int(first[1]), -1, int(first[1])]])).ids[0].tolist() == [
        first[0],
        first[2],
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_calls_give_the_same_index(kind, items, ids, users, tmp_path: Path):
    written = []
    for turn in ("first", "second"):
        index = KINDS[kind]()
        index.build(items[:2_000], ids[:2_000])
        (tmp_path / turn).mkdir()
        index.save(tmp_path / turn)
        written.append((tmp_path / turn / "index.faiss").read_bytes())
    assert written[0] == written[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.1, 0.6], ids=["masked", "built anew"])
def test_removed_items_stay_away_also_after_loading_and_come_back_when_added(kind, share, items, ids, users, tmp_path):
    index = KINDS[kind]()
    index.build(items[:2_000], ids[:2_000])
    gone = share_of(ids[:2_000], share)
    index.remove(gone)
    index.save(tmp_path)
    loaded = KINDS[kind].load(tmp_path)
    assert len(loaded) == len(index) == 2_000 - len(gone)
    for one in (index, loaded):
        found = one.search(users, 200).ids
        assert (found >= 0).all()
        assert not set(found.flatten().tolist()) & set(gone.tolist())
    place = {id: row for row, id in enumerate(ids.tolist())}
    back = gone[:50]
    vectors = items[torch.tensor([place[id] for id in back.tolist()])]
    loaded.add(vectors, back)
    hits = loaded.search(vectors, 1).ids[:, 0] == back
    assert hits.float().mean() > 0.95
    with pytest.raises(InputError, match="cannot be removed"):
        index.remove(gone[:1])


@pytest.mark.parametrize("kind", KINDS)
def test_an_item_added_again_has_its_new_vector_alone(kind, items, ids, users):
    index = KINDS[kind]()
    index.build(items[:2_000], ids[:2_000])
    index.add(-items[:5], ids[:5])
    assert len(index) == 2_000
    found = index.search(-items[:5], 1)
    assert found.ids[:, 0].equal(ids[:5])
    everything = index.search(users[:1], 2_000).ids[0].tolist()
    assert len(set(everything)) == 2_000


@pytest.mark.parametrize("kind", KINDS)
def test_a_catalogue_that_doubles_is_built_anew_and_found(kind, items, ids, users, exact):
    index = KINDS[kind]()
    index.build(items[:500], ids[:500])
    index.add(items[500:], ids[500:])
    assert recall(index.search(users, K).ids, exact.search(users, K).ids) > 0.95


def test_settings_come_back_from_the_folder(tmp_path: Path):
    IVFPQIndex(nlist=9, nprobe=3, subvectors=4, rerank=2).save(tmp_path)
    assert IVFPQIndex.load(tmp_path).settings == {"nlist": 9, "nprobe": 3, "subvectors": 4, "rerank": 2}
    with pytest.raises(InputError, match="not an index of this kind"):
        HNSWIndex.load(tmp_path)


@pytest.mark.parametrize(
    ("index", "line"),
    [
        (IVFFlatIndex(nlist=500), "index.nlist = 500 for 80 items: 10 lists are made"),
        (HNSWIndex(m=200), "index.m = 200 for 80 items: 79 links are used"),
        (IVFPQIndex(nlist=2, subvectors=7), "index.subvectors = 7 does not divide 16 numbers: 4 are used"),
    ],
    ids=KINDS.keys(),
)
def test_a_small_catalogue_is_told_of_in_one_line(index, line, items, ids, users, caplog, capfd):
    with caplog.at_level(logging.INFO):
        index.build(items[:80], ids[:80])
    assert [record.getMessage() for record in caplog.records] == [line]
    assert (index.search(users, 80).ids >= 0).all()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("number", [1, 2, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_a_handful_of_items_is_enough(kind, number, items, ids, users):
    index = KINDS[kind]()
    index.build(items[:number], ids[:number])
    whole = ExactIndex()
    whole.build(items[:number], ids[:number])
    assert index.search(users, K).ids.equal(whole.search(users, K).ids)


def test_what_cannot_be_found_by_is_refused(index, users, items, ids):
    with pytest.raises(InputError, match="user vectors of 5 numbers, but it holds vectors of 16"):
        index.search(users[:, :5], K)
    with pytest.raises(InputError, match="item vectors of 5 numbers"):
        index.add(items[:1, :5], ids[:1])
    with pytest.raises(InputError, match="hold NaN or inf"):
        index.search(users * torch.nan, K)
    with pytest.raises(InputError, match="one list of numbers each"):
        index.build(items[:, :, None], ids)


@pytest.mark.parametrize("make", [lambda: HNSWIndex(m=1), lambda: IVFFlatIndex(nprobe=0), lambda: IVFPQIndex(rerank=0)])
def test_a_setting_out_of_range_is_refused(make):
    with pytest.raises(InputError, match=r"index\.\w+ = [01]: at least [12] is wanted"):
        make()


@pytest.mark.parametrize("name", ["index.faiss", "vectors.npy", "ids.npy", "index.json"])
def test_a_damaged_folder_is_refused(name, items, ids, tmp_path: Path):
    index = IVFFlatIndex()
    index.build(items[:100], ids[:100])
    index.save(tmp_path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="not an index of this kind|not valid JSON"):
        IVFFlatIndex.load(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match="no such file"):
        IVFFlatIndex.load(tmp_path)


def test_answers_lie_where_the_items_came_from():
    index = IVFFlatIndex()
    index.build(clustered(20, 0), torch.arange(20))
    index.to("meta")
    assert index.search(clustered(2, 1), 3).ids.device.type == "meta"
    index.build(clustered(20, 0), torch.arange(20))
    assert index.search(clustered(2, 1), 3).ids.device.type == "cpu"
