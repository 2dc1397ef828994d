"""What may be tried for a key: ranges and lists as a user writes them, their edges, and what is refused."""

import pytest

from twotower.core.errors import InputError
from twotower.experiment.tuning.axes import Grid, Range, axis_of


def test_numbers_of_a_list_are_put_in_order_and_other_values_are_not():
    assert axis_of("model.dim", [64, 32, 64]) == Grid((32, 64))
    assert axis_of("model.pooling", ["mean", "both"]) == Grid(("mean", "both"))
    assert axis_of("model.user_id", [True, False]) == Grid((True, False))
    assert axis_of("model.dim", 64) == Grid((64,))


def test_the_best_value_at_an_end_of_a_range_lies_at_its_edge():
    rate = Range(1e-4, 1e-2, log=True)
    assert [rate.edge(value) for value in (1e-4, 1.1e-4, 1e-3, 9.5e-3)] == ["lowest", "lowest", "", "highest"]
    assert Range(0.1, 0.5).edge(0.49) == "highest"


def test_nothing_lies_below_a_dropout_of_0_or_a_single_layer():
    assert Range(0.0, 0.6).edge(0.0) == ""
    assert Grid((0, 1)).edge(0) == ""
    assert Grid((1, 2, 3)).edge(1) == ""
    assert [Grid((64, 128)).edge(value) for value in (64, 128)] == ["lowest", "highest"]


def test_words_have_no_edge():
    assert Grid(("mean", "both")).edge("both") == ""
    assert Grid((False, True)).edge(True) == ""


def test_an_axis_is_widened_by_the_runs_own_value():
    assert Range(0.1, 0.2).widened(0.5) == Range(0.1, 0.5)
    assert Range(0.1, 0.2, log=True).widened(0) == Range(0.1, 0.2, log=True)
    assert Grid((64, 128)).widened(100) == Grid((64, 100, 128))
    assert Grid(("mean",)).widened("both") == Grid(("mean", "both"))


def test_true_is_not_the_number_1():
    assert not Grid((0, 1)).holds(True)
    assert Grid((False, True)).holds(True)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "is an empty list"),
        ({"low": 1}, "write {low = 0.001"),
        ({"low": 2.0, "high": 1.0}, "low must lie below high"),
        ({"low": 0.0, "high": 1.0, "log": True}, "above 0 with log"),
        ({"low": 0.1, "hihg": 0.2}, "did you mean 'model.dropout.high'"),
        ({"low": 0.1, "high": float("nan")}, "write {low = 0.001"),
        ([0.1, float("inf")], "neither a number"),
        ([[0.1]], "neither a number"),
    ],
)
def test_what_is_no_range_and_no_list_is_refused(value, said):
    with pytest.raises(InputError, match=said.replace("{", "{")):
        axis_of("model.dropout", value)
