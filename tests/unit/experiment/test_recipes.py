"""What a model's name starts from, by what its class says and not by its name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from twotower.core.errors import InputError
from twotower.core.records import Batch, Encoded
from twotower.experiment.recipes import SHARED, default_run
from twotower.losses.registry import LOSSES
from twotower.models.base import Model
from twotower.models.registry import MODELS, model_class
from twotower.models.two_tower import TwoTower


@pytest.fixture
def name() -> Iterator[str]:
    """A name for a class of the test's own."""
    yield "model_of_the_test"
    MODELS.parts.pop("model_of_the_test", None)


def test_every_recipe_that_a_model_of_ours_names_is_there() -> None:
    named = {model_class(one).recipe for one in MODELS} - {None}
    assert named == {"own_loss", "pre_ranking"}
    assert named <= set(SHARED)


def test_a_model_of_ones_own_starts_from_the_recipe_that_it_names(name: str) -> None:
    @MODELS.register(name)
    class Mine(TwoTower):
        recipe = "pre_ranking"

    run = default_run(name)
    assert run.model.name == name
    assert (run.data.split, run.objective.loss, run.training.metric) == ("pre-ranking", "bce", "auc")


@pytest.mark.bad_input
def test_a_recipe_that_is_none_is_refused_with_the_closest(name: str) -> None:
    @MODELS.register(name)
    class Mine(TwoTower):
        recipe = "pre_rankng"

    with pytest.raises(InputError, match="did you mean 'pre_ranking'"):
        default_run(name)


def test_a_class_knows_whether_its_forward_is_its_own() -> None:
    class Own(TwoTower):
        def forward(self, batch: Batch) -> Encoded:
            return super().forward(batch)

    class Heir(Own):
        pass

    assert not Model.own_forward
    assert not TwoTower.own_forward
    assert Own.own_forward
    assert Heir.own_forward
    assert model_class("sasrec").own_forward


def test_the_sampled_softmax_alone_reads_the_log_q_of_the_positive() -> None:
    assert [one for one in LOSSES if getattr(LOSSES.get(one), "reads_positive_log_q", False)] == ["sampled_softmax"]
