"""The [index] section of a run: its settings, and what cannot be served."""

from __future__ import annotations

import tomllib

import pytest

from twotower.core.errors import InputError
from twotower.data.dataset import Dataset
from twotower.experiment.defaults import spelled_out
from twotower.experiment.run import IndexSection, ModelSection, Run
from twotower.experiment.train import train
from twotower.index.registry import INDEXES, build_index, check_settings, serves


class Wide:
    """As much of an index as settings need."""

    def __init__(self, *, breadth: int = 4, exhaustive: bool = False) -> None:
        self.breadth, self.exhaustive = breadth, exhaustive


@pytest.fixture
def wide(monkeypatch):
    monkeypatch.setitem(INDEXES.parts, "wide", Wide)


def test_settings_stand_beside_the_kind_and_come_back_from_toml():
    run = Run(index=IndexSection("wide", {"breadth": 8}))
    assert tomllib.loads(run.to_toml())["index"] == {"kind": "wide", "breadth": 8}
    assert Run.from_dict(tomllib.loads(run.to_toml())) == run


def test_a_run_file_of_old_names_the_kind_alone():
    assert Run.from_dict({"index": {"kind": "exact"}}).index == IndexSection("exact", {})
    assert Run.from_dict({}).index == IndexSection()


def test_the_noted_run_spells_out_what_the_index_has_by_default(wide):
    assert spelled_out(Run(index=IndexSection("wide", {"breadth": 8}))).index.settings == {
        "breadth": 8,
        "exhaustive": False,
    }


@pytest.mark.bad_input
def test_settings_reach_the_index(wide):
    built = build_index("wide", {"breadth": 9}, model=None)  # type: ignore[arg-type]
    assert built.breadth == 9


def test_an_unknown_setting_is_refused_with_the_closest_before_training(wide, tiny_dataset: Dataset):
    run = Run(index=IndexSection("wide", {"bredth": 8}))
    with pytest.raises(InputError, match=r"unknown setting of index 'wide' 'index\.bredth'; did you mean 'index\.b"):
        train(run, dataset=tiny_dataset)


@pytest.mark.parametrize("value", [-1, 2.5, "many", True])
def test_a_setting_of_the_wrong_kind_is_refused(wide, tiny_dataset: Dataset, value):
    with pytest.raises(InputError, match=r"index\.breadth = .*whole number of at least 0"):
        train(Run(index=IndexSection("wide", {"breadth": value})), dataset=tiny_dataset)


def test_an_index_of_inner_products_is_refused_for_another_score_before_training(wide, tiny_dataset: Dataset):
    run = Run(model=ModelSection("ease"), index=IndexSection("wide"))
    with pytest.raises(InputError, match=r"finds inner products, and model 'ease' has another score: .*brute_force"):
        train(run, dataset=tiny_dataset)


def test_an_index_that_scores_by_the_model_serves_any_model():
    assert serves("brute_force", inner_product=False)
    assert serves("exact", inner_product=True)
    assert not serves("exact", inner_product=False)


@pytest.mark.bad_input
@pytest.mark.parametrize("value", ["abc", [1.0], True])
def test_a_number_that_is_none_is_refused_for_a_threshold_of_lists(value):
    with pytest.raises(InputError, match=r"index\.above = .*: a number is wanted"):
        check_settings("postings", {"above": value})
    check_settings("postings", {"above": 1})
