"""Engines that keep vectors themselves, against a scan: recall, filters by ids and by columns, growth, files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from twotower.core.conditions import Condition
from twotower.core.errors import InputError
from twotower.index.abilities import FiltersColumns, ItemColumn
from twotower.index.base import Index
from twotower.index.exact import ExactIndex
from twotower.index.qdrant_edge import QdrantEdgeIndex
from twotower.index.qdrant_server import QdrantIndex
from twotower.index.store import StoreIndex
from twotower.serving.filters.parse import parse

USERS, ITEMS, DIM, K = 15, 1_200, 16, 10
COLUMNS = "genre,year,adult,tags,seen"


def clustered(rows: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(40, DIM, generator=torch.Generator().manual_seed(9))
    spread = 0.7 * torch.randn(rows, DIM, generator=generator)
    return torch.nn.functional.normalize(centres[torch.randint(40, (rows,), generator=generator)] + spread)


def edge() -> StoreIndex:
    pytest.importorskip("qdrant_edge")
    return QdrantEdgeIndex(columns=COLUMNS)


def server() -> StoreIndex:
    """By the client's own plain search in memory: no server runs here."""
    pytest.importorskip("qdrant_client")
    return QdrantIndex(columns=COLUMNS)


KINDS: dict[str, Callable[[], StoreIndex]] = {"qdrant": server, "qdrant_edge": edge}

pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant"),
    pytest.mark.filterwarnings("ignore:Local mode performs exact"),
]


@pytest.fixture(autouse=True, scope="module")
def in_memory() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TWOTOWER_QDRANT_URL", ":memory:")
        yield


items, users = clustered(ITEMS, 0), clustered(USERS, 1)
ids = 2 + 3 * torch.randperm(ITEMS, generator=torch.Generator().manual_seed(4))
draw = np.random.default_rng(5)
VALUES: dict[str, list[Any]] = {
    "genre": [None if draw.random() < 0.1 else f"g{int(20 * draw.random() ** 3)}" for _ in range(ITEMS)],
    "year": [None if draw.random() < 0.1 else int(draw.integers(1900, 2030)) for _ in range(ITEMS)],
    "adult": [None if draw.random() < 0.1 else bool(draw.random() < 0.3) for _ in range(ITEMS)],
    "tags": [[f"t{int(tag)}" for tag in draw.integers(0, 30, draw.integers(0, 4))] or None for _ in range(ITEMS)],
    "seen": [f"20{int(year):02d}-06-01T00:00:00Z" for year in draw.integers(0, 30, ITEMS)],
}
TYPES = {"genre": ("text", False), "year": ("number", False), "adult": ("flag", False), "tags": ("text", True)}
TYPES["seen"] = ("time", False)


def columns(rows: slice = slice(None)) -> dict[str, ItemColumn]:
    return {name: ItemColumn(*TYPES[name], values[rows]) for name, values in VALUES.items()}


@pytest.fixture(scope="module")
def exact() -> ExactIndex:
    index = ExactIndex()
    index.build(items, ids)
    return index


@pytest.fixture(scope="module", params=KINDS)
def index(request: pytest.FixtureRequest) -> StoreIndex:
    """Not to be changed: it serves the whole module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("twotower.index.qdrant_edge.SCANNED", 10)  # a graph for so few vectors, too
        made = KINDS[request.param]()
        made.build(items, ids)
    made.set_columns(ids, columns())
    return made


def recall(found: Tensor, true: Tensor) -> float:
    pairs = zip(found.tolist(), true.tolist(), strict=True)
    hits = sum(len(set(row) & set(best) - {-1}) for row, best in pairs)
    return hits / max(int((true >= 0).sum()), 1)


def test_it_is_an_index_that_filters_columns(index: StoreIndex) -> None:
    assert isinstance(index, Index)
    assert isinstance(index, FiltersColumns)


def test_nearly_all_of_the_true_best_are_found_with_their_scores(index: StoreIndex, exact: ExactIndex) -> None:
    found, true = index.search(users, K), exact.search(users, K)
    assert recall(found.ids, true.ids) > 0.95
    same = found.ids == true.ids
    torch.testing.assert_close(found.scores[same], true.scores[same])


@pytest.mark.parametrize("share", [0.5, 0.05, 0.001, 0.0])
def test_ids_that_may_come_back_alone_come_back(share: float, index: StoreIndex, exact: ExactIndex) -> None:
    allowed = ids[: round(share * ITEMS)]
    for banned in (None, allowed[: min(3, len(allowed) // 2)].expand(USERS, -1)):
        found, true = index.search(users, K, banned, allowed), exact.search(users, K, banned, allowed)
        assert (found.ids >= 0).equal(true.ids >= 0)
        assert recall(found.ids, true.ids) > 0.95 or not share


def meets(name: str, test: Callable[[Any], bool]) -> list[bool]:
    return [value is not None and test(value) for value in VALUES[name]]


CONDITIONS: list[tuple[str, list[bool]]] = [
    ("genre = 'g0'", meets("genre", lambda genre: genre == "g0")),
    ("genre in ('g1', 'g5', 'none')", meets("genre", lambda genre: genre in ("g1", "g5"))),
    ("year >= 1965", meets("year", lambda year: year >= 1965)),
    ("year = 1999", meets("year", lambda year: year == 1999)),
    ("year in (1999, 2001.0)", meets("year", lambda year: year in (1999, 2001))),
    ("not year < 1965", [not one for one in meets("year", lambda year: year < 1965)]),
    ("adult", meets("adult", bool)),
    ("adult = false", meets("adult", lambda adult: not adult)),
    ("tags contains 't3'", meets("tags", lambda tags: "t3" in tags)),
    ("seen >= '2015-01-01'", meets("seen", lambda seen: seen >= "2015")),
    ("seen = '2015-06-01'", meets("seen", lambda seen: seen[:4] == "2015")),
    ("year > 3000", [False] * ITEMS),
    (
        "(genre = 'g0' or tags contains 't3') and not adult",
        [
            (genre == "g0" or "t3" in (tags or [])) and not adult
            for genre, tags, adult in zip(VALUES["genre"], VALUES["tags"], VALUES["adult"], strict=True)
        ],
    ),
]


@pytest.mark.parametrize(("expression", "passes"), CONDITIONS)
def test_a_condition_finds_what_a_scan_of_the_passing_items_finds(
    expression: str, passes: list[bool], index: StoreIndex, exact: ExactIndex
) -> None:
    condition: Condition = parse(expression)
    assert index.answers(condition)
    allowed = ids[torch.tensor(passes)]
    exclude = exact.search(users, 2, allow=allowed).ids
    for banned in (None, exclude):
        found = index.search_where(users, K, banned, condition)
        true = exact.search(users, K, banned, allowed)
        assert (found.ids >= 0).equal(true.ids >= 0)
        assert set(found.ids.flatten().tolist()) <= set(allowed.tolist()) | {-1}
        assert recall(found.ids, true.ids) > 0.95 or not any(passes)


@pytest.mark.parametrize("expression", ["genre < 'g3'", "year = 9007199254740993", "price > 3", "adult and price > 3"])
def test_what_an_engine_cannot_answer_is_left_to_a_mask(expression: str, index: StoreIndex) -> None:
    assert not index.answers(parse(expression))


@pytest.mark.parametrize("kind", KINDS)
def test_items_without_columns_leave_conditions_to_a_mask_until_they_have_them(kind: str, tmp_path: Path) -> None:
    index = KINDS[kind]()
    index.build(items[:40], ids[:40])
    condition = parse("year >= 1965")
    assert not index.answers(condition)
    index.set_columns(ids[:40], columns(slice(0, 40)))
    assert index.answers(condition)
    index.add(items[40:50], ids[40:50])
    assert not index.answers(condition)
    index.set_columns(ids[40:50], columns(slice(40, 50)))
    index.remove(ids[:5])
    passes = {id for id, year in zip(ids[5:50].tolist(), VALUES["year"][5:50], strict=True) if year and year >= 1965}
    index.save(tmp_path)
    for one in (index, type(index).load(tmp_path)):
        assert one.answers(condition)
        assert set(one.search_where(users[:1], len(passes), None, condition).ids[0].tolist()) == passes
    with pytest.raises(InputError, match="no item has id"):
        index.set_columns(ids[:1], columns(slice(0, 1)))


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_of_another_width_are_refused(kind: str) -> None:
    index = KINDS[kind]()
    index.build(items[:9], ids[:9])
    with pytest.raises(InputError, match="user vectors of 3 numbers, but it holds vectors of 16"):
        index.search(torch.ones(1, 3), 2)
    with pytest.raises(InputError, match="item vectors of 3 numbers"):
        index.add(torch.ones(1, 3), ids[10:11])
    with pytest.raises(InputError, match="NaN or inf"):
        index.search(torch.full((1, DIM), torch.nan), 2)


def test_a_shard_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    index = edge()
    index.build(items[:9], ids[:9])
    index.save(tmp_path)
    (tmp_path / "shard" / "edge_config.json").write_text("nothing of the sort")
    with pytest.raises(InputError, match="not a shard that this version of qdrant-edge reads"):
        QdrantEdgeIndex.load(tmp_path)
