"""Outside ids and rows, both ways, from the file and from memory."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from twotower.core.errors import InputError
from twotower.serving.vocabulary import Record, Vocabulary, write_row_vocabulary


@pytest.fixture(params=["from the file", "preloaded"])
def items(request: pytest.FixtureRequest, tmp_path: Path) -> Vocabulary:
    path = tmp_path / "id=7" / "it's items.parquet"
    path.parent.mkdir()
    target = str(path).replace("'", "''")
    duckdb.connect().execute(
        f"""COPY (SELECT * FROM (VALUES
            (2, '0007', 'Heat', ['Crime', 'Drama'], DATE '1995-12-15', 1.5::DOUBLE),
            (3, '7', 'Café “Ω”', NULL, NULL, 'nan'::DOUBLE),
            (4, '18446744073709551617', NULL, []::VARCHAR[], NULL, NULL)
        ) AS t(row, id, title, genres, released, price)) TO '{target}' (FORMAT parquet)"""
    )
    vocabulary = Vocabulary(path, "item")
    if request.param == "preloaded":
        vocabulary.preload()
    return vocabulary


def test_ids_stay_text_and_keep_the_order_asked(items: Vocabulary) -> None:
    assert items.rows(["18446744073709551617", "0007", "7", "0007"]) == [4, 2, 3, 2]
    assert [record.id for record in items.records([3, 4, 3, 2])] == ["7", "18446744073709551617", "7", "0007"]
    assert items.rows([]) == []
    assert items.records([]) == []


def test_columns_are_plain_values(items: Vocabulary) -> None:
    assert [record.columns for record in items.records([3, 2])] == [
        {"title": "Café “Ω”", "genres": None, "released": None, "price": None},
        {"title": "Heat", "genres": ["Crime", "Drama"], "released": "1995-12-15", "price": 1.5},
    ]


def test_an_unknown_id_names_the_closest(items: Vocabulary) -> None:
    with pytest.raises(InputError, match=r"^unknown item '0008'; did you mean '0007'\?$"):
        items.rows(["7", "0008"])


@pytest.mark.bad_input
def test_what_is_no_text_is_taken_by_its_text(items: Vocabulary) -> None:
    assert items.rows([7, 2**64 + 1]) == [3, 4]  # type: ignore[list-item]
    with pytest.raises(InputError, match=r"^unknown item '8'"):
        items.rows([8])  # type: ignore[list-item]
    with pytest.raises(InputError, match=r"^unknown item 'None'"):
        items.rows([None])  # type: ignore[list-item]


def test_an_id_that_is_far_from_all_shows_what_ids_look_like(items: Vocabulary) -> None:
    with pytest.raises(
        InputError, match=r"^unknown item 'Heat'; known ids look like '0007', '7', '18446744073709551617'$"
    ):
        items.rows(["Heat"])


def test_quotes_in_an_id_are_no_syntax(items: Vocabulary) -> None:
    with pytest.raises(InputError, match="unknown item"):
        items.rows(["' OR 1=1 --"])
    assert items.known(["7", "nobody"]) == {"7": 3}


def test_rows_without_outside_ids_are_their_own(tmp_path: Path) -> None:
    write_row_vocabulary(tmp_path / "users.parquet", 5)
    vocabulary = Vocabulary(tmp_path / "users.parquet", "user")
    assert vocabulary.rows(["4", "2"]) == [4, 2]
    assert vocabulary.records([3]) == [Record("3", {})]
    with pytest.raises(InputError, match="unknown user '1'"):
        vocabulary.rows(["1"])
