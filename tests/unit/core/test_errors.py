import pytest

from twotower.core.errors import InputError, closest, unknown_name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sasrek", "did you mean 'sasrec'?"),
        ("SASREC", "did you mean 'sasrec'?"),
        ("poplarity", "did you mean 'Popularity'?"),
        ("qqqq", "known: Popularity, ease, sasrec"),
    ],
)
def test_closest_ignores_case_and_keeps_the_known_spelling(name, expected):
    assert closest(name, ["sasrec", "ease", "Popularity", "ease"]) == expected


def test_closest_shortens_a_long_list_and_survives_an_empty_one():
    assert closest("zzz", [f"item{i:02}" for i in range(23)]).endswith("item19 and 3 more")
    assert closest("zzz", []) == "there are none"


def test_unknown_name_is_one_line_that_says_where():
    error = unknown_name("column", "raiting", ["rating", "user"], "ratings.csv")
    assert isinstance(error, InputError)
    assert str(error) == "ratings.csv: unknown column 'raiting'; did you mean 'rating'?"
