"""Answers in outside ids against plain loops over the model's own scores."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import twotower
from twotower.core.errors import InputError
from twotower.core.records import Items, Users
from twotower.data.dataset import Dataset
from twotower.models import registry as build
from twotower.models.base import Model
from twotower.models.encode import inference
from twotower.serving.retriever import Answer, Retriever

Write = Callable[..., Model]
SEEN = {2: [2, 3, 4, 5, 6], 3: [7], 4: [3, 8, 2, 9], 5: [4, 4], 6: [6, 2, 7, 9, 3, 5]}
"""The items of each user of `tiny_log`, oldest first."""


@pytest.fixture
def model(write: Write, titled_dataset: Dataset, tmp_path: Path) -> Model:
    return write(tmp_path / "bundle", titled_dataset)


@pytest.fixture
def retriever(model: Model, tmp_path: Path) -> Retriever:
    loaded: Retriever = twotower.load(tmp_path / "bundle")
    return loaded


def scores_of(model: Model, dataset: Dataset, user: int, history: list[int]) -> dict[str, float]:
    """The score of every item for one user, from the model itself."""
    users = dataset.users(torch.tensor([user]), torch.tensor([history]))
    with inference(model):
        row = model.score(model.encode_users(users), model.encode_items(dataset.all_items()))[0]
    return {f"i{item}": row[item].item() for item in range(2, 10)}


def best(scores: dict[str, float], left_out: set[str], k: int) -> list[str]:
    return sorted((id for id in scores if id not in left_out), key=lambda id: -scores[id])[:k]


def ids(answers: list[Answer]) -> list[str]:
    return [answer.id for answer in answers]


@pytest.mark.parametrize("user", SEEN)
def test_a_user_gets_the_best_items_not_yet_seen(
    user: int, model: Model, retriever: Retriever, titled_dataset: Dataset
) -> None:
    scores = scores_of(model, titled_dataset, user, SEEN[user])
    seen = {f"i{item}" for item in SEEN[user]}
    answers = retriever.recommend(user=f"u{user}", k=3)
    assert ids(answers) == best(scores, seen, 3)
    assert [answer.score for answer in answers] == pytest.approx([scores[id] for id in ids(answers)], abs=1e-6)
    assert ids(retriever.recommend(user=f"u{user}", k=8, include_seen=True)) == best(scores, set(), 8)
    assert ids(retriever.recommend(user=f"u{user}", k=3, exclude=["i9", "i8"])) == best(scores, seen | {"i9", "i8"}, 3)


def test_an_answer_carries_the_columns_of_its_item(retriever: Retriever) -> None:
    answers = {answer.id: answer.columns for answer in retriever.recommend(user="u3", k=8)}
    assert answers["i2"] == {"year": 1972, "title": "Alien"}
    assert len(answers) == 7


def test_a_history_typed_in_is_an_unknown_user(model: Model, retriever: Retriever, titled_dataset: Dataset) -> None:
    scores = scores_of(model, titled_dataset, 1, [8, 2])
    assert ids(retriever.recommend(history=["i8", "i2"], k=4)) == best(scores, {"i8", "i2"}, 4)
    assert ids(retriever.recommend(history=["i8", "i2"], k=8, include_seen=True)) == best(scores, set(), 8)


def test_a_long_history_keeps_its_latest_items(write: Write, titled_dataset: Dataset, tmp_path: Path) -> None:
    parameters = {"dim": 5, "field_dim": 3, "hidden": [], "history_length": 2}
    model = write(tmp_path / "short", titled_dataset, parameters=parameters)
    retriever = twotower.load(tmp_path / "short")
    scores = scores_of(model, titled_dataset, 1, [8, 2])
    assert ids(retriever.recommend(history=["i5", "i9", "i8", "i2"], k=8, include_seen=True)) == best(scores, set(), 8)


def test_many_users_at_once_get_what_each_gets_alone(retriever: Retriever) -> None:
    users = ["u6", "u2", "u5", "u2"]
    for one, many in zip(users, retriever.recommend_many(users, k=4), strict=True):
        alone = retriever.recommend(user=one, k=4)
        assert ids(many) == ids(alone)
        assert [answer.score for answer in many] == pytest.approx([answer.score for answer in alone], abs=1e-6)
    assert retriever.recommend_many([]) == []
    assert [len(part) for part in retriever.recommend_many(["u3", "u6"], k=8, include_seen=True)] == [8, 8]


def test_candidates_are_ranked_by_the_whole_model(model: Model, retriever: Retriever, titled_dataset: Dataset) -> None:
    scores = scores_of(model, titled_dataset, 4, SEEN[4])
    answers = retriever.rank("u4", ["i9", "i2", "i7"])
    assert ids(answers) == sorted(["i9", "i2", "i7"], key=lambda id: -scores[id])
    assert [answer.score for answer in answers] == pytest.approx([scores[id] for id in ids(answers)], abs=1e-6)


def test_what_a_user_has_seen_is_told_latest_first_and_once(retriever: Retriever) -> None:
    assert [item.id for item in retriever.seen("u4")] == ["i9", "i2", "i8", "i3"]
    assert [item.columns["title"] for item in retriever.seen("u5")] == ["Casablanca"]


def test_a_preloaded_retriever_answers_the_same(retriever: Retriever, tmp_path: Path) -> None:
    held = twotower.load(tmp_path / "bundle")
    held.preload()
    assert held.recommend(user="u4", k=4) == retriever.recommend(user="u4", k=4)
    assert held.similar("i3", k=2) == retriever.similar("i3", k=2)
    with pytest.raises(InputError, match="unknown user 'u44'; did you mean 'u4'"):
        held.recommend(user="u44")


class Distance(Model):
    """Scores by minus the distance: no inner product."""

    inner_product = False

    def __init__(self, schema: object, *, dim: int = 3) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(10, dim)

    def encode_users(self, users: Users) -> torch.Tensor:
        return self.table(users.history).mean(dim=1)

    def encode_items(self, items: Items) -> torch.Tensor:
        return self.table(items.ids)

    def score(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        return -torch.cdist(users, items)


def test_a_model_without_inner_product_scores_the_whole_catalogue(
    write: Write, titled_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(build.MODELS.parts, "distance", Distance)
    model = write(tmp_path / "bundle", titled_dataset, "distance")
    retriever = twotower.load(tmp_path / "bundle")
    scores = scores_of(model, titled_dataset, 6, SEEN[6])
    assert ids(retriever.recommend(user="u6", k=8, include_seen=True)) == best(scores, set(), 8)


@pytest.mark.parametrize("name", ["sasrec", "popularity", "random", "item_cosine", "ease"])
def test_every_model_answers_from_its_bundle(name: str, write: Write, titled_dataset: Dataset, tmp_path: Path) -> None:
    if not _exists(name):
        pytest.skip(f"no model {name}")
    write(tmp_path / "bundle", titled_dataset, name)
    retriever = twotower.load(tmp_path / "bundle")
    assert set(ids(retriever.recommend(user="u6", k=8))) == {"i4", "i8"}
    assert len(retriever.recommend(history=["i4"], k=3)) == 3


def cosines(model: Model, dataset: Dataset, vectors: torch.Tensor) -> list[dict[str, float]]:
    """The cosine of each vector with every item, in Python floats."""
    with inference(model):
        states = model.encode_items(dataset.all_items()).tolist()

    def cosine(left: list[float], right: list[float]) -> float:
        return sum(a * b for a, b in zip(left, right, strict=True)) / math.hypot(*left) / math.hypot(*right)

    return [{f"i{item}": cosine(vector, states[item]) for item in range(2, 10)} for vector in vectors.tolist()]


def test_similar_items_have_the_largest_cosine(model: Model, retriever: Retriever, titled_dataset: Dataset) -> None:
    with inference(model):
        state = model.encode_items(titled_dataset.items(torch.tensor([4])))
    (expected,) = cosines(model, titled_dataset, state)
    answers = retriever.similar("i4", k=7)
    assert ids(answers) == best(expected, {"i4"}, 7)
    assert [answer.score for answer in answers] == pytest.approx([expected[id] for id in ids(answers)], abs=1e-6)


def new_items(path: Path) -> Path:
    """Two new items and a known one between them."""
    path.write_text(
        "id,brand,genres,price,title,picture\n"
        "new1,brand3,genres2|genres5,1.25,title2 title9,0.5 -1 2\n"
        "i7,,,,,\n"
        "new2,never seen,genres4,,title3,1 1 1\n"
    )
    return path


def test_new_items_of_a_file_go_through_the_item_tower(
    model: Model, retriever: Retriever, titled_dataset: Dataset, tmp_path: Path
) -> None:
    features = {
        "brand": torch.tensor([3, 1]),
        "genres": torch.tensor([[2, 5, 0], [4, 0, 0]]),
        "price": torch.tensor([1.25, float("nan")]),
        "title": torch.tensor([[2, 9, 0, 0], [3, 0, 0, 0]]),
        "picture": torch.tensor([[0.5, -1.0, 2.0], [1.0, 1.0, 1.0]]),
    }
    with inference(model):
        new = model.encode_items(Items(torch.tensor([1, 1]), features))
        known = model.encode_items(titled_dataset.items(torch.tensor([7])))
    expected = cosines(model, titled_dataset, torch.cat([new[:1], known, new[1:]]))
    found = retriever.similar_table(new_items(tmp_path / "new.csv"), k=5)
    assert [one.id for one in found] == ["new1", "i7", "new2"]
    for one, row in zip(found, expected, strict=True):
        assert ids(one.answers) == best(row, {one.id}, 5)
        assert [answer.score for answer in one.answers] == pytest.approx([row[id] for id in ids(one.answers)], abs=1e-6)


def test_neighbours_may_come_from_the_file_itself(retriever: Retriever, tmp_path: Path) -> None:
    found = retriever.similar_table(new_items(tmp_path / "new.csv"), k=2, among="file")
    assert [sorted(ids(one.answers)) for one in found] == [["i7", "new2"], ["new1", "new2"], ["i7", "new1"]]
    pairs = {(one.id, answer.id): answer.score for one in found for answer in one.answers}
    assert pairs["new1", "i7"] == pytest.approx(pairs["i7", "new1"], abs=1e-6)


def test_more_than_there_is_gives_all_and_says_so(retriever: Retriever, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert len(retriever.recommend(user="u3", k=50)) == 7
        assert len(retriever.similar("i2", k=50)) == 7
    assert "k = 50, but there are 8 items" in caplog.text
    assert "k = 50, but there are 7 items" in caplog.text


def test_of_many_users_it_is_said_once(
    retriever: Retriever, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twotower.serving.retriever.TILE", 1)
    with caplog.at_level(logging.WARNING):
        assert [len(part) for part in retriever.recommend_many(["u3", "u6"], k=50)] == [7, 2]
    assert caplog.text.count("k = 50, but there are 8 items") == 1


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda r: r.recommend(), "either a user or a history"),
        (lambda r: r.recommend(history=[]), "history is empty"),
        (lambda r: r.recommend(user="U7"), "unknown user 'U7'; did you mean 'u"),
        (lambda r: r.recommend(history=["i10", "i11"]), "unknown item 'i10'"),
        (lambda r: r.recommend(user="u2", k=0), "k must be at least 1, got 0"),
        (lambda r: r.recommend_many(["u2", "x"]), "unknown user 'x'"),
        (lambda r: r.recommend_many([], k=0), "k must be at least 1, got 0"),
        (lambda r: r.rank("u2", []), "list of candidates is empty"),
        (lambda r: r.rank("u2", ["i3", "i2", "i3"]), "candidate 'i3' is named more than once"),
        (lambda r: r.rank("u2", ["i3", "nothing"]), "unknown item 'nothing'"),
        (lambda r: r.rank("u2", "i3"), "ids of items come as a list, got 'i3'"),
        (lambda r: r.recommend(history="i3"), "ids of items come as a list"),
        (lambda r: r.similar("i2", k=-1), "k must be at least 1, got -1"),
        (lambda r: r.similar("Heat"), "unknown item 'Heat'; known ids look like 'i2', 'i3', 'i4'"),
        (lambda r: r.similar_table("nowhere.csv"), "no such file"),
        (lambda r: r.similar_table("nowhere.csv", among="fil"), "did you mean 'file'"),
    ],
)
def test_bad_questions(ask: Callable[[Retriever], object], message: str, retriever: Retriever) -> None:
    with pytest.raises(InputError, match=message) as error:
        ask(retriever)
    assert "\n" not in str(error.value)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda r: r.rank("u2", (name for name in ("i3", "i2", "i3"))), "candidate 'i3' is named more than once"),
        (lambda r: r.rank("u2", None), "ids of items come as a list, got None"),
        (lambda r: r.recommend(user="u2", k=1.5), "k is a whole number, got 1.5"),
        (lambda r: r.recommend(user="u2", k=None), "k is a whole number, got None"),
        (lambda r: r.recommend(user="u2", k="x"), "k is a whole number, got 'x'"),
        (lambda r: r.recommend(user="u2", k=[1]), "k is a whole number"),
        (lambda r: r.recommend(user="u2", k=float("nan")), "k is a whole number, got nan"),
        (lambda r: r.recommend(user="u2", k=float("inf")), "k is a whole number, got inf"),
        (lambda r: r.recommend(history=np.array("i3")), "ids of items come as a list"),
        (lambda r: r.recommend(history=torch.tensor([7, 8])), "unknown item '7'"),
    ],
)
def test_questions_of_the_wrong_kind(ask: Callable[[Retriever], object], message: str, retriever: Retriever) -> None:
    with pytest.raises(InputError, match=message):
        ask(retriever)


def test_new_items_that_tell_the_model_nothing(write: Write, titled_dataset: Dataset, tmp_path: Path) -> None:
    write(tmp_path / "sasrec", titled_dataset, "sasrec")
    with pytest.raises(InputError, match="reads no item features"):
        twotower.load(tmp_path / "sasrec").similar_table(new_items(tmp_path / "new.csv"))


def test_states_of_one_number_have_no_neighbours(write: Write, titled_dataset: Dataset, tmp_path: Path) -> None:
    if not _exists("popularity"):
        pytest.skip("no model popularity")
    write(tmp_path / "popularity", titled_dataset, "popularity")
    with pytest.raises(InputError, match="no item vectors"):
        twotower.load(tmp_path / "popularity").similar("i2")


def _exists(name: str) -> bool:
    try:
        build.model_class(name)
    except ModuleNotFoundError:
        return False
    return True


def test_candidates_of_equal_score_keep_the_order_of_the_catalogue(write, titled_dataset, tmp_path):
    """A popularity that has counted nothing scores all alike."""
    write(tmp_path / "level", titled_dataset, "popularity")
    answers = twotower.load(tmp_path / "level").rank(history=["i2"], candidates=["i9", "i4", "i6"])
    assert len({answer.score for answer in answers}) == 1
    assert [answer.id for answer in answers] == ["i4", "i6", "i9"]
