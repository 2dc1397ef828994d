"""Settings of an absurd size or kind are one short line, before anything is built."""

import pytest

from twotower.core.errors import InputError, unknown_name
from twotower.experiment.run import Run
from twotower.models.registry import build_model


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("sasrec", {"layers": 1_000_000_000_000}),
        ("sasrec", {"layers": 100_000_000}),
        ("two_tower", {"history_length": 9_223_372_036_854_775_807}),
        ("two_tower", {"dim": 10**30}),
    ],
)
def test_a_size_beyond_all_bounds_is_refused_before_it_is_built(name, settings, tiny_dataset):
    with pytest.raises(InputError, match="at most") as told:
        build_model(name, tiny_dataset.schema, settings)
    assert len(str(told.value)) < 500


@pytest.mark.parametrize("value", ["99999999999999999999", "[" + "1," * 5000 + "1]"])
def test_a_value_that_is_no_whole_number_is_told_in_a_short_line(value):
    with pytest.raises(InputError, match=r"training\.batch_size must be a whole number") as told:
        Run().with_settings([f"training.batch_size={value}"])
    assert len(str(told.value)) < 500


@pytest.mark.parametrize("name", [[], {}, 3, "x" * 5000])
def test_a_name_of_any_kind_is_unknown(name):
    assert len(str(unknown_name("reading", name, ["first", "last"]))) < 500
