"""A run written to TOML and read back is equal; what is wrong in it is said in one line with the closest known word."""

import tomllib

import pytest

from twotower.core.errors import InputError
from twotower.experiment.defaults import spelled_out
from twotower.experiment.recipes import RECIPES, default_run, recipe
from twotower.experiment.run import ModelSection, Run
from twotower.experiment.run_folder import check_resumable
from twotower.models.registry import MODELS, model_parameters


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipes_survive_toml(name, tmp_path):
    run = recipe(name)
    path = tmp_path / "run.toml"
    path.write_text(run.to_toml())
    assert Run.load(path) == run


@pytest.mark.parametrize("name", MODELS)
def test_every_setting_of_a_model_survives_toml(name):
    run = spelled_out(Run(model=ModelSection(name)))
    assert set(run.model.settings) == set(model_parameters(name))
    assert Run.from_dict(tomllib.loads(run.to_toml())) == run


def test_every_kind_of_value_survives_toml():
    settings = [
        "data.path=a b/ü.d",
        "data.split=global-time",
        "data.split_options={validation_share = 0.2}",
        "model.name=two_tower",
        "model.hidden=[64, 32]",
        "model.user_id=true",
        "sampling.sources=['in_batch', 'uniform']",
        "training.learning_rate=1",
        "training.optimizer=adagrad",
        "evaluation.ks=[3]",
    ]
    run = Run().with_settings(settings)
    assert run.model.settings == {"hidden": [64, 32], "user_id": True}
    assert (run.training.learning_rate, run.evaluation.ks) == (1.0, (3,))
    assert Run.from_dict(tomllib.loads(run.to_toml())) == run


def test_a_key_of_a_table_in_a_section_is_set_alone():
    run = default_run("fit").with_settings(
        ["data.split_options.negatives=fresh", "objective.regularise.uniformity=0.1"]
    )
    assert run.data.split_options == {"reading": "all", "negatives": "fresh"}
    assert run.objective.regularise == {"uniformity": 0.1}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.epochs.x=3", "unknown key 'training.epochs.x'"),
        ("training.epoch=3", "unknown key 'training.epoch'; did you mean 'training.epochs'?"),
        ("trainin.epochs=3", "unknown section 'trainin'; did you mean 'training'?"),
        ("training.epochs=three", "training.epochs must be a whole number, got 'three'"),
        ("training.epochs=true", "training.epochs must be a whole number, got True"),
        ("training.epochs=0", "training.epochs must be at least 1, got 0"),
        ("training.learning_rate=nan", "training.learning_rate must be at least 0.0, got nan"),
        ("training.learning_rate='fast'", "training.learning_rate must be a number, got 'fast'"),
        ("training.optimizer=adm", "unknown training.optimizer 'adm'; did you mean 'adam'?"),
        ("objective.loss=softmax", "unknown objective.loss 'softmax'; did you mean 'full_softmax'?"),
        ("evaluation.ks=[0]", "evaluation.ks must be list lengths of at least 1, got [0]"),
        ("evaluation.ks=['a']", "evaluation.ks must be a list, each a whole number, got ['a']"),
        ("sampling.sources=[]", "sampling.sources is empty"),
        ("evaluation.mask_seen=1", "evaluation.mask_seen must be true or false, got 1"),
        ("epochs", "--set epochs: write section.key=value"),
    ],
)
def test_wrong_settings_are_named(setting, message):
    with pytest.raises(InputError) as error:
        Run().with_settings([setting])
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "unknown section 'x'"),
        ("model = 'sasrec'", "'model' is a section: write [model] and its keys below"),
        ("[training]\nepochs = ", "not valid TOML"),
        ("[training]\nlr = 0.1", "unknown key 'training.lr'"),
    ],
)
def test_wrong_run_files_are_named_with_their_path(text, message, tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        Run.load(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_a_run_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="a folder; give the run file itself"):
        Run.load(tmp_path)
    with pytest.raises(InputError, match="no such run file"):
        Run.load(tmp_path / "none.toml")


def test_contradictions_are_refused():
    with pytest.raises(InputError, match=r"training\.patience needs validations"):
        Run().with_settings(["training.patience=3", "training.evaluate_every=0"])
    with pytest.raises(InputError, match=r"training\.refit needs validations"):
        Run().with_settings(["training.refit=true", "training.evaluate_every=0"])


def test_names_have_defaults_or_say_what_is_close():
    assert default_run("ease").model.name == "ease"
    assert default_run("sasrec") == recipe("sasrec")
    with pytest.raises(InputError, match="did you mean 'sasrec'"):
        default_run("sasrek")
    with pytest.raises(InputError, match="did you mean 'two_tower'"):
        recipe("two_towers")


def test_a_run_that_was_noted_without_defaults_can_be_resumed(tmp_path):
    run = default_run("two_tower")
    (tmp_path / "train.safetensors").touch()
    (tmp_path / "run.toml").write_text(run.to_toml())
    check_resumable(tmp_path, spelled_out(run))
    other = spelled_out(run.with_settings(["model.dim=8"]))
    with pytest.raises(InputError, match="other settings"):
        check_resumable(tmp_path, other)
