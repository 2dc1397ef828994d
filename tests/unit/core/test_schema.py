import pytest

from twotower.core.errors import InputError
from twotower.core.schema import KINDS, Feature, Schema

SCHEMA = Schema(
    num_users=7,
    num_items=11,
    user_features=(Feature("age", "numeric", 1, mean=31.25, std=0.1),),
    item_features=(Feature("genre", "multi_categorical", 9, width=4), Feature("vision", "vector", 3)),
    has_times=False,
)


def test_saved_and_loaded_schema_is_equal(tmp_path):
    SCHEMA.save(tmp_path / "schema.json")
    assert Schema.load(tmp_path / "schema.json") == SCHEMA


def test_features_of_a_side():
    assert [feature.name for feature in SCHEMA.features("user")] == ["age"]
    assert [feature.name for feature in SCHEMA.features("item")] == ["genre", "vision"]


def test_discrete_kinds_are_those_with_a_vocabulary():
    assert {kind for kind in KINDS if Feature("f", kind, 2).is_discrete} == set(KINDS) - {"numeric", "vector"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param({"kind": "numerical"}, "did you mean 'numeric'", marks=pytest.mark.bad_input),
        ({"size": 0}, "at least 1"),
        ({"width": 0}, "at least 1"),
        ({"name": ""}, "rename it"),
        ({"name": "price/unit"}, "rename it"),
        ({"name": "..\\up"}, "rename it"),
    ],
)
def test_impossible_features_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        Feature(**{"name": "price", "kind": "categorical", "size": 3, **values})


def test_two_features_of_one_name_are_refused():
    with pytest.raises(InputError, match="'age' is there twice"):
        Schema(3, 3, user_features=(Feature("age", "numeric", 1), Feature("age", "categorical", 4)))


@pytest.mark.parametrize("change", ["missing", "unknown", "unknown in a feature"])
def test_a_schema_of_another_version_is_refused(change):
    values = SCHEMA.to_dict()
    if change == "missing":
        del values["item_features"]
    elif change == "unknown":
        values["num_sessions"] = 4
    else:
        values["user_features"] = [{**values["user_features"][0], "colour": 1}]
    with pytest.raises(InputError, match="not a schema of this version"):
        Schema.from_dict(values)
