"""The search space of each model, and how a run file narrows it."""

import pytest

from twotower.core.errors import InputError
from twotower.experiment.recipes import default_run
from twotower.experiment.run import Run
from twotower.experiment.tuning.axes import Grid, Range
from twotower.experiment.tuning.spaces import SPACES, load_tuned, space_of, value_in, with_values
from twotower.models.registry import MODELS, build_model

NOTHING = ("popularity", "random")
OPEN = {"ease": ["model.lambda_"], "sparse_ease": ["model.lambda_"], "mixture": ["model.weight"]}
"""What stands at 0, outside of its space: a training chooses it."""


@pytest.mark.parametrize("model", sorted({*MODELS} - {*NOTHING}))
def test_every_model_can_be_built_at_both_ends_of_its_space_and_holds_its_own_values(model, tiny_dataset):
    run = default_run(model)
    space = space_of(run)
    assert space
    for end in (0, -1):
        values = {
            key: axis.values[end] if isinstance(axis, Grid) else (axis.low, axis.high)[end]
            for key, axis in space.items()
        }
        changed = with_values(run, values)
        assert all(value_in(changed, key) == value for key, value in values.items())
        if model not in ("semantic", "fit", "sparcode"):  # they want a feature of texts, or many items or users
            build_model(model, tiny_dataset.schema, changed.model.settings)
    own = [key for key, axis in space.items() if not axis.holds(value_in(run, key))]
    assert own == OPEN.get(model, [])


def test_no_space_is_kept_for_a_model_that_is_not_there():
    assert set(SPACES) <= set(MODELS)


@pytest.mark.parametrize("model", NOTHING)
def test_a_model_without_settings_has_nothing_to_tune(model):
    with pytest.raises(InputError, match=f"model '{model}' has nothing left to tune"):
        space_of(default_run(model))


def test_a_key_that_is_fixed_or_held_at_one_value_is_not_tuned():
    run = default_run("sasrec")
    space = space_of(run, fixed=("training.batch_size",), own={"model.dropout": 0.1, "training.learning_rate": [0.001]})
    assert "training.batch_size" not in space
    assert space["model.dropout"] == Grid((0.1,))
    assert space["training.learning_rate"] == Grid((0.001,))


def test_a_run_file_says_what_is_tuned_in_a_section_of_its_own(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(
        '[model]\nname = "sasrec"\n[tune]\n"training.learning_rate" = {low = 1e-4, high = 0.1, log = true}\n'
        "[tune.model]\ndim = [8, 16]\nheads = {low = 1, high = 4}\n"
    )
    run, own = load_tuned(path)
    space = space_of(run, own=own)
    assert run == Run.from_dict({"model": {"name": "sasrec"}})
    assert space["training.learning_rate"] == Range(1e-4, 0.1, log=True)
    assert space["model.dim"] == Grid((8, 16))
    assert space["model.heads"] == Range(1.0, 4.0, whole=True)
    with pytest.raises(InputError, match=r"\[tune\] is read by 'twotower tune' alone"):
        Run.load(path)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"model.dropuot": [0.1]}, "did you mean 'model.dropout'"),
        ({"dropout": [0.1]}, "unknown key 'dropout'"),
        ({"data.split": ["time"]}, "unknown key 'data.split'"),
        ({"training.batch_size": [64, "many"]}, "training.batch_size must be a whole number"),
        ({"training.batch_size": {"low": 0.5, "high": 8.0}}, "whole"),
        ({"training.learning_rate": [-1.0, 0.1]}, "training.learning_rate must be at least 0"),
        ({"training.optimizer": ["adamw", "adem"]}, "did you mean"),
    ],
)
def test_a_key_or_value_that_cannot_stand_there_is_refused_before_any_trial(own, said):
    with pytest.raises(InputError, match=said):
        space_of(default_run("sasrec"), own=own)
