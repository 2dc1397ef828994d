"""Postings against sums by plain loops in float64."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch

from twotower.core.errors import InputError
from twotower.index import postings as module
from twotower.index.postings import Postings, build_postings
from twotower.index.postings_search import search_postings

CODES, ITEMS, LONGEST = 12, 90, 17

BACKENDS = ["numpy", pytest.param("numba", marks=pytest.mark.bad_input)]
"""numba compiles no function whose shapes are checked, so its tests are left out of that run."""


def table_of(codes: int = CODES, items: int = ITEMS, *, levels: int = 0) -> torch.Tensor:
    """Scores of codes with items; with few levels, many are equal."""
    table = torch.randn(codes, items)
    return table if not levels else (table * levels).round() / levels


def built(table: torch.Tensor, **settings) -> Postings:
    ids = torch.arange(table.shape[1]) * 3 + 2
    return build_postings(
        lambda codes, items: table[codes, items].clone(), len(table), ids, **({"longest": LONGEST} | settings)
    )


def slow_lists(table: torch.Tensor, longest: int) -> list[dict[int, float]]:
    """The best of each row, equal scores by column: column -> score."""
    lists = []
    for row in table.double().tolist():
        order = sorted(range(len(row)), key=lambda item: (-row[item], item))
        lists.append({item: row[item] for item in order[:longest] if row[item] > -float("inf")})
    return lists


def lists_of(postings: Postings) -> list[dict[int, float]]:
    return [
        dict(
            zip(
                postings.places[postings.offsets[code] : postings.offsets[code + 1]].tolist(),
                postings.values(code).tolist(),
                strict=True,
            )
        )
        for code in range(postings.num_codes)
    ]


def request(users: int = 9, width: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    codes = torch.randint(-1, CODES, (users, width))
    codes[0] = torch.tensor([3, 3, -1, 5])  # a code that comes twice
    codes[1] = -1  # and a request of none
    return codes, torch.rand(users, width) + 0.1


def slow_search(postings: Postings, codes, weights, k, exclude=(), allowed=None):
    """Σ weight · score in float64 by loops: for each user [(score, id)] best first."""
    lists, answers = lists_of(postings), []
    for user, (row, row_weights) in enumerate(zip(codes.tolist(), weights.double().tolist(), strict=True)):
        sums: dict[int, float] = {}
        for code, weight in zip(row, row_weights, strict=True):
            for place, score in lists[code].items() if code >= 0 else ():
                sums[place] = sums.get(place, 0.0) + weight * score
        gone = set(exclude[user].tolist()) if len(exclude) else set()
        found = [
            (-score, int(postings.ids[place]))
            for place, score in sums.items()
            if int(postings.ids[place]) not in gone and (allowed is None or allowed[place])
        ]
        answers.append([(-score, item) for score, item in sorted(found)[:k]])
    return answers


@pytest.mark.parametrize("levels", [0, 2])
@pytest.mark.parametrize(("tile", "long"), [(7, 0), (7, 2), (16_384, 8)])
def test_lists_are_the_best_of_each_code_with_ties_to_the_lower_id(levels, tile, long, monkeypatch):
    monkeypatch.setattr(module, "ITEM_TILE", tile)
    monkeypatch.setattr(module, "LONG", long)
    monkeypatch.setattr(module, "CODE_TILE", 5)
    table = table_of(levels=levels)
    table[2, :80] = -torch.inf  # a short list
    table[4] = -torch.inf  # an empty one
    postings = built(table)
    assert lists_of(postings) == slow_lists(table, LONGEST)
    assert all((np.diff(postings.places[a:b]) > 0).all() for a, b in itertools.pairwise(postings.offsets))
    assert postings.places.dtype == np.int32
    assert postings.sparsity == pytest.approx(1 - len(postings.places) / (11 * ITEMS))


def test_building_never_scores_more_than_a_tile_nor_codes_that_nobody_uses(monkeypatch):
    monkeypatch.setattr(module, "ITEM_TILE", 32)
    monkeypatch.setattr(module, "CODE_TILE", 4)
    table, asked = table_of(), []

    def score(codes, items):
        asked.append((codes.tolist(), items.stop - items.start))
        return table[codes, items].clone()

    used = torch.tensor([9, 1, 2, 1, 7, 5])
    postings = build_postings(score, CODES, torch.arange(ITEMS), longest=LONGEST, codes=used)
    assert max(len(codes) * items for codes, items in asked) <= 4 * 32
    assert {code for codes, _ in asked for code in codes} == {1, 2, 5, 7, 9}
    assert [length > 0 for length in postings.lengths] == [code in (1, 2, 5, 7, 9) for code in range(CODES)]


def test_a_threshold_lists_what_is_above_it_alone():
    table = table_of().relu()
    postings = built(table, above=0.0, longest=ITEMS)
    assert postings.lengths.tolist() == (table > 0).sum(1).tolist()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("precision", ["float32", "float16", "uint8"])
@pytest.mark.parametrize("block", [None, 13])
@pytest.mark.parametrize("k", [1, 8, 60])
def test_search_is_the_weighted_sum_of_the_lists(backend, precision, block, k):
    if backend == "numba":
        pytest.importorskip("numba")
    postings = built(table_of(), precision=precision)
    codes, weights = request()
    exclude = torch.cat([torch.from_numpy(postings.ids[torch.randint(ITEMS, (9, 5))]), torch.full((9, 1), -1)], 1)
    allowed = torch.rand(ITEMS) < 0.7
    for chosen in ({}, {"exclude": exclude}, {"exclude": exclude, "allowed": allowed}):
        found = search_postings(postings, codes, weights, k, backend=backend, block=block, **chosen)
        expected = slow_search(postings, codes, weights, k, **chosen)
        for scores, ids, wanted in zip(found.scores.tolist(), found.ids.tolist(), expected, strict=True):
            assert ids == [item for _, item in wanted] + [-1] * (k - len(wanted))
            assert scores == pytest.approx([score for score, _ in wanted] + [-np.inf] * (k - len(wanted)), abs=1e-5)


@pytest.mark.parametrize("precision", ["float32", "float16", "uint8"])
@pytest.mark.bad_input
def test_both_backends_give_the_same_bits_with_ties_and_signed_scores(precision):
    pytest.importorskip("numba")
    postings = built(table_of(levels=1), precision=precision)
    codes, _ = request(200, 4)
    weights = torch.randint(-2, 3, codes.shape).float()  # sums that come back to 0 on the way
    for k in (1, 5, 70):
        slow = search_postings(postings, codes, weights, k, backend="numpy")
        for block in (None, 11):
            quick = search_postings(postings, codes, weights, k, backend="numba", block=block)
            assert quick.ids.equal(slow.ids)
            assert quick.scores.equal(slow.scores)


@pytest.mark.bad_input
@pytest.mark.parametrize("k", [1, 20, 700, 4000])
@pytest.mark.parametrize("levels", [0, 1, 40])
def test_the_best_of_thousands_are_the_same_by_loops_as_by_sorting(k, levels):
    """More sums than the loops keep at a time, many of them equal, some below 0 and some -0.0."""
    pytest.importorskip("numba")
    table = table_of(4, 3000, levels=levels) - (1.0 if levels else 0.0)
    table[3] = -0.0
    postings = built(table, longest=3000)
    codes, weights = torch.tensor([[0, 1, 2], [2, 3, -1], [3, -1, -1]]), torch.tensor([[1.0, -0.5, 2.0]] * 3)
    slow = search_postings(postings, codes, weights, k, backend="numpy")
    for block in (None, 1000):
        quick = search_postings(postings, codes, weights, k, backend="numba", block=block)
        assert quick.ids.equal(slow.ids)
        assert quick.scores.equal(slow.scores)


@pytest.mark.bad_input
def test_keys_keep_the_order_of_scores_and_places():
    pytest.importorskip("numba")
    from twotower.index.best_numba import key, place_in, score_of

    scores = [-np.inf, -3e38, -2.5, -1e-40, -0.0, 0.0, 1e-40, 2.5, 3e38]
    keys = [key(np.float32(score), 7) for score in scores]
    assert keys == sorted(keys)
    assert keys[4] == keys[5] < keys[6]
    assert [float(score_of(one)) for one in keys] == [float(np.float32(score)) for score in scores]
    for place in (0, 1, 2**31 + 5, 2**32 - 1):
        assert place_in(key(np.float32(-1.5), np.uint32(place))) == place
    assert key(np.float32(1), 3) > key(np.float32(1), 4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_equal_sums_come_by_the_lower_id_and_short_answers_are_padded(backend):
    if backend == "numba":
        pytest.importorskip("numba")
    postings = built(torch.ones(2, 6), longest=4)
    found = search_postings(postings, torch.tensor([[0, 1], [1, -1]]), torch.ones(2, 2), 5, backend=backend)
    assert found.ids.tolist() == [[2, 5, 8, 11, -1]] * 2
    assert found.scores.tolist() == [[2.0] * 4 + [-np.inf], [1.0] * 4 + [-np.inf]]


def test_coarse_scores_are_within_half_a_step():
    table = table_of()
    exact, coarse = built(table), built(table, precision="uint8")
    assert coarse.scores.dtype == np.uint8
    for code in range(CODES):
        wide = np.ptp(exact.values(code)) / 255
        assert np.abs(exact.values(code) - coarse.values(code)).max() <= wide / 2 + 1e-6


@pytest.mark.parametrize("many", [1, 30, 80])
@pytest.mark.parametrize("levels", [0, 2])
def test_adding_items_gives_what_building_anew_would_give(levels, many):
    table = table_of(levels=levels)
    ids = torch.arange(ITEMS) * 3 + 2
    late = torch.randperm(ITEMS)[:many]
    early = torch.tensor(sorted(set(range(ITEMS)) - set(late.tolist())))
    part = build_postings(lambda c, i: table[:, early][c, i].clone(), CODES, ids[early], longest=LONGEST)
    whole = part.add(table[:, late], ids[late])
    assert lists_of(whole) == lists_of(built(table))
    assert whole.ids.tolist() == ids.tolist()


def test_an_item_added_again_has_its_new_scores():
    postings = built(table_of())
    again = postings.add(torch.full((CODES, 1), 9.0), torch.tensor([5]))
    assert all(scores[1] == 9.0 for scores in lists_of(again))
    assert again.ids.tolist() == postings.ids.tolist()


def test_a_removed_item_is_in_no_list_and_nothing_else_changes():
    postings = built(table_of())
    gone = torch.from_numpy(postings.ids[[0, 7, 44, 89]].copy())
    left = postings.remove(gone)
    assert not set(left.ids.tolist()) & set(gone.tolist())
    before = [{int(postings.ids[p]): s for p, s in part.items()} for part in lists_of(postings)]
    after = [{int(left.ids[p]): s for p, s in part.items()} for part in lists_of(left)]
    assert after == [{item: s for item, s in part.items() if item not in gone.tolist()} for part in before]


@pytest.mark.parametrize("precision", ["float32", "float16", "uint8"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_saved_lists_are_mapped_and_answer_alike(precision, backend, tmp_path):
    if backend == "numba":
        pytest.importorskip("numba")
    postings = built(table_of(), precision=precision)
    postings.save(tmp_path)
    again = Postings.load(tmp_path)
    assert isinstance(again.places, np.memmap)
    codes, weights = request()
    one, other = (search_postings(each, codes, weights, 9, backend=backend) for each in (postings, again))
    assert one.ids.equal(other.ids)
    assert one.scores.equal(other.scores)
    assert lists_of(again.remove(torch.tensor([2]))) == lists_of(postings.remove(torch.tensor([2])))


@pytest.mark.parametrize("name", ["ids", "offsets", "places", "scores", "low", "step"])
@pytest.mark.parametrize("left", [0, 60, -4])
def test_a_file_cut_short_is_refused_in_one_line(name, left, tmp_path):
    built(table_of()).save(tmp_path)
    path = tmp_path / f"{name}.npy"
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(InputError, match=f"{name}.npy: ") as caught:
        Postings.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_lists_that_are_not_the_headers_are_refused(tmp_path):
    built(table_of()).save(tmp_path / "one")
    built(table_of(codes=5)).save(tmp_path / "other")
    (tmp_path / "one" / "offsets.npy").write_bytes((tmp_path / "other" / "offsets.npy").read_bytes())
    with pytest.raises(InputError, match="not the offsets of postings.json"):
        Postings.load(tmp_path / "one")
    (tmp_path / "other" / "places.npy").unlink()
    with pytest.raises(InputError, match="no such file"):
        Postings.load(tmp_path / "other")
    (tmp_path / "other" / "postings.json").write_text(json.dumps({"format": 2}))
    with pytest.raises(InputError, match="format 1"):
        Postings.load(tmp_path / "other")


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_items_answer_with_nothing(backend, tmp_path):
    if backend == "numba":
        pytest.importorskip("numba")
    none = build_postings(lambda c, i: torch.zeros(len(c), 0), 3, torch.zeros(0, dtype=torch.int64), longest=4)
    none.save(tmp_path)
    for postings in (none, Postings.load(tmp_path)):
        found = search_postings(postings, torch.tensor([[0, 2]]), torch.ones(1, 2), 2, backend=backend)
        assert found.ids.tolist() == [[-1, -1]]


def test_what_cannot_be_built_or_asked_is_said_in_one_line():
    table, codes, weights = table_of(), *request()
    postings = built(table)
    for message, call in {
        "unknown precision of postings 'float8'": lambda: built(table, precision="float8"),
        "at least 1 code and 1 item a list": lambda: built(table, longest=0),
        "NaN or infinite": lambda: built(table.masked_fill(table > 2, torch.nan)),
        "code 12 of 12": lambda: built(table, codes=torch.tensor([12])),
        "beyond 65,504": lambda: built(table * 1e6, precision="float16"),
        "k must be at least 1": lambda: search_postings(postings, codes, weights, 0),
        "another model's": lambda: search_postings(postings, codes + 9, weights, 3),
        "weights for": lambda: search_postings(postings, codes, weights[:, :2], 3),
        "exclude has 2 rows for 9 users": lambda: search_postings(postings, codes, weights, 3, exclude=codes[:2]),
        "allowed has 3 rows": lambda: search_postings(postings, codes, weights, 3, allowed=torch.ones(3) > 0),
        "unknown backend 'cuda'": lambda: search_postings(postings, codes, weights, 3, backend="cuda"),
        "no item has id 4": lambda: postings.remove(torch.tensor([4])),
        "for 12 codes and 2 items": lambda: postings.add(torch.ones(12, 3), torch.tensor([1, 4])),
        "each come once": lambda: postings.add(torch.ones(12, 2), torch.tensor([4, 4])),
    }.items():
        with pytest.raises(InputError, match=message):
            call()
