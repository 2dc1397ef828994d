"""Filter expressions: what they say, the items they let through, and where they are wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.core.conditions import columns_of
from twotower.core.errors import InputError
from twotower.serving.filters.columns import ItemColumns
from twotower.serving.filters.evaluate import check, passing
from twotower.serving.filters.parse import parse

ROWS: list[dict[str, Any]] = [
    {"genre": "Comedy", "year": 1990, "adult": False, "tags": ["a", "b"], "price": 9.5, "seen": "1999-12-31", "n": [1]},
    {"genre": "comedy", "year": 1989, "adult": True, "tags": [], "price": 10.0, "seen": "2000-01-01", "n": [2, 3]},
    {"genre": "Drama", "year": None, "adult": None, "tags": ["b"], "price": None, "seen": None, "n": None},
    {"genre": None, "year": 2001, "adult": False, "tags": None, "price": 0.0, "seen": "2001-05-05", "n": []},
    {
        "genre": "Rock 'n' Roll",
        "year": -5,
        "adult": True,
        "tags": ["Rock 'n' Roll"],
        "price": 1e9,
        "seen": None,
        "n": [],
    },
]


@pytest.fixture(scope="module")
def columns(tmp_path_factory: pytest.TempPathFactory) -> ItemColumns:
    path = tmp_path_factory.mktemp("vocabulary") / "items.parquet"
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE TABLE items (row BIGINT, id VARCHAR, genre VARCHAR, year INTEGER, adult BOOLEAN, tags VARCHAR[], "
            'price DECIMAL(12, 2), seen DATE, n INTEGER[], "odd name" INTEGER, more STRUCT(a INTEGER))'
        )
        for row, item in enumerate(ROWS, start=2):
            values = (row, f"i{row}", *item.values(), row, {"a": 1})
            connection.execute("INSERT INTO items VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
        connection.execute(f"COPY items TO '{path}'")
    return ItemColumns(path, len(ROWS) + 2)


@pytest.fixture
def passed(columns: ItemColumns) -> Callable[[str], list[int]]:
    def ask(expression: str) -> list[int]:
        condition = parse(expression)
        check(condition, columns)
        found: list[int] = passing(condition, columns).nonzero()[0].tolist()
        return [row for row in found if row >= 2]

    return ask


@pytest.mark.parametrize(
    ("expression", "rows"),
    [
        ("genre = 'Comedy'", [2]),
        ("genre in ('Comedy', 'Drama', 'none')", [2, 4]),
        ("genre not in ('Comedy', 'Drama')", [3, 5, 6]),
        ("genre = 'Rock ''n'' Roll' or tags contains 'b'", [2, 4, 6]),
        ("genre >= 'Drama'", [3, 4, 6]),
        ("genre < 'Drama'", [2]),
        ("genre = 'Dram'", []),
        ("year >= 1990", [2, 5]),
        ("not year >= 1990", [3, 4, 6]),
        ("year != 1990", [3, 4, 5, 6]),
        ("year <> 1990", [3, 4, 5, 6]),
        ("year = 1990.5", []),
        ("year in (1990.5, 1989)", [3]),
        ("year = -5", [6]),
        ("year < 1e3", [6]),
        ("adult", [3, 6]),
        ("not adult", [2, 4, 5]),
        ("adult = false", [2, 5]),
        ("tags contains 'b' and not (year >= 1990 or genre = 'x')", [4]),
        ("n contains 3", [3]),
        ("price > 9.5", [3, 6]),
        ("price in (9.5, 0)", [2, 5]),
        ("seen >= '2000-01-01'", [3, 5]),
        ("seen = '1999-12-31T00:00:00'", [2]),
        ("seen < '1999-12-31T02:00:00+03:00'", []),
        ("id in ('i2', 'i9')", [2]),
        ('"odd name" = 4', [4]),
        ("NOT adult AND Year_ = 1 or year = 1990".replace("Year_ = 1", "year = 2001"), [2, 5]),
        ("genre = 'Comedy' or genre = 'comedy' and adult", [2, 3]),
        ("not adult or adult", [2, 3, 4, 5, 6]),
        ("(((year = 1990)))", [2]),
    ],
)
def test_an_expression_lets_through_what_it_says(
    expression: str, rows: list[int], passed: Callable[[str], list[int]]
) -> None:
    assert passed(expression) == rows


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("", "the filter is empty"),
        ("   ", "the filter is empty"),
        ("gener = 'Comedy'", "character 1: items have no column 'gener'; did you mean 'genre'?"),
        ("year = 1990 and yeer = 2", "character 17: items have no column 'yeer'; did you mean 'year'?"),
        ("genre = Comedy", "character 9: 'Comedy' is no value; a text stands in single quotes: 'Comedy'"),
        ('genre = "Comedy"', "character 9: 'Comedy' is no value; a text stands in single quotes"),
        ("genre = 'Comedy", "character 9: the text that starts here has no end"),
        ("year = '1990'", "character 8: column 'year' holds numbers, and '1990' is none: write a number"),
        ("year in (1990, 'x')", "character 16: column 'year' holds numbers"),
        ("year = true", "character 8: column 'year' holds numbers, and 'true' is none"),
        ("genre = 3", "column 'genre' holds texts, and 3 is none: write a text in single quotes"),
        ("seen = 'yesterday'", "column 'seen' holds times, and 'yesterday' is none: write a date"),
        ("adult = 'no'", "column 'adult' holds true and false, and 'no' is none"),
        ("tags = 'a'", "character 1: column 'tags' holds lists; ask by tags contains …"),
        ("genre contains 'a'", "column 'genre' holds no lists"),
        ("year", "character 5: column 'year' is not of true and false; a sign and a value are wanted"),
        ("more = 3", "column 'more' is STRUCT(a INTEGER): no filter reads it"),
        ("row = 3", "items have no column 'row'"),
        (
            "year == 1990",
            "character 7: a value (a text in single quotes, a number, true or false) is wanted here, but there is '='",
        ),
        ("year >= ", "is wanted here, but the filter ends"),
        ("(year = 1990", "character 13: ')' for the '(' at character 1 is wanted here, but the filter ends"),
        ("year = 1990)", "character 12: 'and', 'or' or the end is wanted here, but there is ')'"),
        ("year = 1990 and", "character 16: the name of a column"),
        ("year in ()", "character 10: a value"),
        ("year in 3", "character 9: a list of values such as (1, 2) is wanted here, but there is '3'"),
        ("year like 3", "character 6: a sign after column 'year'"),
        ("year = 12x", "character 8: '12x' is no part of a filter"),
        ("year = 1; drop table items", "character 9: ';' is no part of a filter"),
        ("__import__('os')", "character 11: a sign after column '__import__'"),
        ("(" * 60 + "adult" + ")" * 60, "character 51: more than 50 parentheses"),
        ("not " * 60 + "adult", "more than 50 parentheses and 'not' within each other"),
        ("genre = '" + "x" * 30_000 + "'", "at most 20,000 are read"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(expression: str, said: str, passed: Callable[[str], list[int]]) -> None:
    with pytest.raises(InputError) as problem:
        passed(expression)
    assert said in str(problem.value)
    assert "\n" not in str(problem.value)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="yearn()'\"<>=!,. 019not and or in contains\\;%", max_size=60))
def test_no_text_does_anything_but_parse_or_be_refused(text: str) -> None:
    with contextlib.suppress(InputError):
        assert columns_of(parse(text))


Meaning = Callable[[dict[str, Any]], bool]
Pair = tuple[str, Meaning]
"""An expression, and the same in Python over one item: a missing value meets nothing."""

LEAVES: list[Pair] = [
    ("year >= 1990", lambda row: row["year"] is not None and row["year"] >= 1990),
    ("genre = 'Comedy'", lambda row: row["genre"] == "Comedy"),
    ("adult", lambda row: bool(row["adult"])),
    ("tags contains 'b'", lambda row: "b" in (row["tags"] or [])),
    ("price < 10", lambda row: row["price"] is not None and row["price"] < 10),
    ("year in (1989, 2001)", lambda row: row["year"] in (1989, 2001)),
]


def negated(part: Pair) -> Pair:
    return f"not ({part[0]})", lambda row: not part[1](row)


def joined(parts: tuple[Pair, str, Pair]) -> Pair:
    (left, is_left), word, (right, is_right) = parts
    both = all if word == "and" else any
    return f"({left}) {word} ({right})", lambda row: both([is_left(row), is_right(row)])


_trees = st.recursive(
    st.sampled_from(LEAVES),
    lambda inner: inner.map(negated) | st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(joined),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(pair=_trees)
def test_any_combination_agrees_with_plain_python(pair: Pair, columns: ItemColumns) -> None:
    expression, meaning = pair
    assert passing(parse(expression), columns)[2:].tolist() == [meaning(row) for row in ROWS]


def test_a_column_without_any_value_lets_nothing_through(tmp_path: Path) -> None:
    with duckdb.connect() as connection:
        connection.execute(f"COPY (SELECT 2 AS row, 'a' AS id, NULL::VARCHAR AS genre) TO '{tmp_path / 'i.parquet'}'")
    columns = ItemColumns(tmp_path / "i.parquet", 3)
    assert not passing(parse("genre = 'x' or genre >= 'a' or genre in ('b')"), columns).any()
    assert np.array_equal(passing(parse("not genre = 'x'"), columns), [True] * 3)
