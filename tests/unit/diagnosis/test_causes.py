"""Blame lands on what was planted, and on nothing else: towers whose truth is known."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from twotower.core.schema import Feature
from twotower.diagnosis.causes.causes import Case, Causes, find_causes, removed
from twotower.diagnosis.causes.contribution import Inputs
from twotower.diagnosis.causes.drift import compare_values

BRAND = Feature("brand", "categorical", 12)
WORDS = Feature("words", "text", 60, width=4)
PRICE = Feature("price", "numeric", 1)
PICTURE = Feature("picture", "vector", 6)
COLOUR = Feature("colour", "categorical", 9)
FEATURES = (BRAND, WORDS, PRICE, PICTURE, COLOUR)
DIM = 16


def rows(count: int, seed: int) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    return {
        "brand": torch.randint(2, 12, (count,), generator=generator),
        "words": torch.randint(2, 60, (count, 4), generator=generator),
        "price": torch.randn(count, generator=generator),
        "picture": torch.randn(count, 6, generator=generator),
        "colour": torch.randint(2, 9, (count,), generator=generator),
    }


class Tower:
    """A sum of one vector a feature and of a constant one; ``reads`` are their weights."""

    def __init__(self, reads: dict[str, float], constant: float = 1.0) -> None:
        generator = torch.Generator().manual_seed(99)

        def table(size: int) -> Tensor:
            values = torch.randn(size, DIM, generator=generator)
            values[0] = 0.0
            return values

        self.reads = reads
        self.constant = constant * table(2)[1]
        self.brand, self.words, self.colour = table(12), table(60), table(9)
        self.price, self.picture = table(2)[1:], table(7)[1:] / math.sqrt(6.0)

    def __call__(self, x: Inputs) -> Tensor:
        present = (x["words"] != 0).sum(1, keepdim=True).clamp(min=1)
        parts = {
            "brand": self.brand[x["brand"]],
            "words": 2.0 * self.words[x["words"]].sum(1) / present,
            "price": x["price"].nan_to_num(0.0)[:, None] * self.price,
            "picture": x["picture"] @ self.picture,
            "colour": self.colour[x["colour"]],
        }
        whole = sum((weight * parts[name] for name, weight in self.reads.items()), torch.zeros(1))
        return torch.nn.functional.normalize(whole + self.constant, dim=1)


EVEN = dict.fromkeys(("brand", "words", "price", "picture", "colour"), 1.0)


def blamed(found: Causes) -> set[str]:
    return {cause["feature"] for cause in found.causes if cause["to_blame"]}


def cause(found: Causes, feature: str) -> dict[str, object]:
    (only,) = (cause for cause in found.causes if cause["feature"] == feature)
    return only


def find(changes: Inputs, *, reads: dict[str, float] | None = None, constant: float = 1.0, count: int = 255) -> Causes:
    now = {**rows(count, 5), **changes}
    return find_causes(Case(FEATURES, now, rows(900, 6), Tower(reads or EVEN, constant)))


def test_empty_and_constant_columns_are_blamed_and_the_rest_is_not() -> None:
    found = find(
        {
            "brand": torch.zeros(255, dtype=torch.int64),
            "words": torch.full((255, 4), 7),
            "picture": torch.zeros(255, 6),
            "colour": torch.full((255,), 3),
        },
        constant=2.0,
    )
    assert found.now["verdict"] == "collapsed"
    assert blamed(found) == {"brand", "words", "picture", "colour"}
    assert found.restored is not None
    assert found.restored["verdict"] == found.training["verdict"] == "healthy"
    assert [cause["to_blame"] for cause in found.causes] == [True] * 4 + [False], "those to blame come first"
    assert "missing in every row (0% in training)" in str(cause(found, "brand")["reason"])
    assert "the same value in every row" in str(cause(found, "colour")["reason"])
    assert str(cause(found, "price")["reason"]).startswith("as in training")
    assert cause(found, "brand")["variance_share"] == 0.0
    assert cause(found, "price")["variance_share"] == pytest.approx(1.0, abs=0.1), "only the price still moves states"


@pytest.mark.parametrize("count", [12, 60, 255])
def test_a_healthy_table_blames_nobody(count: int) -> None:
    for seed in range(2):
        found = find_causes(Case(FEATURES, rows(count, seed), rows(900, 50), Tower(EVEN)), seed=seed)
        assert blamed(found) == set()
        assert not [cause["feature"] for cause in found.causes if cause["drifted"]]
        assert (found.restored, found.removed) == (None, None)


def test_an_empty_feature_that_never_mattered_is_not_blamed() -> None:
    reads = {"brand": 1.0, "words": 1.0, "picture": 1.0, "colour": 0.0}
    changes = {"colour": torch.zeros(255, dtype=torch.int64), "words": torch.zeros(255, 4, dtype=torch.int64)}
    found = find({**changes, "brand": torch.full((255,), 4)}, reads=reads, constant=3.0)
    assert found.now["verdict"] != "healthy"
    assert blamed(found) == {"words", "brand"}
    assert "moves no state" in str(cause(found, "colour")["reason"])
    assert cause(found, "colour")["drifted"] is False
    assert cause(found, "words")["removed"] == found.now, "it is missing already"
    assert cause(found, "words")["restored"] != found.now


def test_a_missing_feature_in_a_healthy_space_is_told_but_not_blamed() -> None:
    found = find({"brand": torch.zeros(255, dtype=torch.int64)}, constant=0.0)
    assert found.now["verdict"] == "healthy"
    assert blamed(found) == set()
    assert cause(found, "brand")["drifted"] is True


def test_a_model_that_had_collapsed_in_training_blames_no_healthy_column() -> None:
    found = find({}, constant=60.0)
    assert found.now["verdict"] == found.training["verdict"] == "collapsed"
    assert blamed(found) == set()


def test_restoring_what_drifted_must_help() -> None:
    # the space had collapsed before the brand went missing
    found = find({"brand": torch.zeros(255, dtype=torch.int64)}, constant=60.0)
    assert cause(found, "brand")["drifted"] is True
    assert blamed(found) == set()


def test_a_number_in_another_unit_is_blamed() -> None:
    found = find({"price": 1000.0 + 1000.0 * rows(255, 5)["price"].abs()})
    assert found.now["verdict"] == "collapsed"
    assert blamed(found) == {"price"}
    assert "farther out than any in training" in str(cause(found, "price")["reason"])


def test_a_number_of_both_signs_in_another_unit_is_blamed_though_the_states_spread_more() -> None:
    found = find({"price": 1000.0 * rows(255, 5)["price"]})
    assert found.now["verdict"] == "collapsed"
    assert blamed(found) == {"price"}


def test_restored_columns_leave_the_given_ones_untouched() -> None:
    now, training = rows(40, 5), rows(90, 6)
    before = {name: column.clone() for name, column in now.items()}
    find_causes(Case(FEATURES, now, training, Tower(EVEN)))
    for name, column in now.items():
        torch.testing.assert_close(column, before[name], rtol=0, atol=0)


def test_the_same_seed_gives_the_same_answer() -> None:
    changes = {"brand": torch.zeros(255, dtype=torch.int64)}
    assert find(changes, constant=2.0).causes == find(changes, constant=2.0).causes


class Events(NamedTuple):
    items: Tensor
    times: Tensor


def test_a_column_of_several_parts_moves_as_one() -> None:
    history = Feature("history", "multi_categorical", 30, width=3)

    def column(count: int, seed: int) -> Events:
        items = torch.randint(2, 30, (count, 3), generator=torch.Generator().manual_seed(seed))
        return Events(items, items * 10)

    table = torch.randn(30, DIM, generator=torch.Generator().manual_seed(3))
    table[0] = 0.0

    def encode(x: Inputs) -> Tensor:
        assert bool((x["history"].times == x["history"].items * 10).all()), "times follow their items"
        return table[x["history"].items].sum(1) + x["price"][:, None].nan_to_num(0.0) * 0.1 + 0.5

    empty = torch.zeros(50, 3, dtype=torch.int64)
    now = {"history": Events(empty, empty), "price": rows(50, 1)["price"]}
    found = find_causes(Case((history, PRICE), now, {"history": column(80, 2), "price": rows(80, 2)["price"]}, encode))
    assert blamed(found) == {"history"}


def test_removed_is_what_a_tower_sees_of_nothing() -> None:
    now = rows(3, 0)
    assert removed(BRAND, now["brand"]).tolist() == [0, 0, 0]
    assert removed(PRICE, now["price"]).isnan().all()
    assert not removed(PICTURE, now["picture"]).any()
    assert removed(Feature("id", "id", 9), torch.tensor([2, 3])).tolist() == [1, 1]


def test_a_small_table_is_not_taken_for_constant() -> None:
    two = Feature("flag", "categorical", 4)
    training = torch.tensor([2, 3] * 200)
    rises = compare_values(two, torch.tensor([2, 2, 2, 3]), training).rises()
    assert rises["constant"] < 0.3
    assert compare_values(two, torch.full((40,), 2), training).rises()["constant"] > 0.3


def test_new_words_are_unknown_and_another_distribution_is_seen() -> None:
    training = torch.randint(2, 60, (400, 4), generator=torch.Generator().manual_seed(0))
    found = compare_values(WORDS, torch.ones(100, 4, dtype=torch.int64), training)
    assert (found.unknown, found.training_unknown) == (1.0, 0.0)
    other = compare_values(WORDS, training[:100] // 12 + 2, training)
    assert other.rises()["values"] > 0.3
    same = compare_values(WORDS, training[:100], training)
    assert same.rises()["values"] < 0.02
