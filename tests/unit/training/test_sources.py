"""Sources of negatives in a run file: names or a table each, the keys of old run files, and what is refused."""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Iterator

import pytest
import torch

from twotower.core.errors import InputError
from twotower.core.records import Batch
from twotower.experiment.run import Run
from twotower.experiment.sources import SAMPLERS, check_sources
from twotower.sampling.uniform import Uniform
from twotower.training.config import Sampling
from twotower.training.sources import OLD_OPTIONS, NegativeSource

TABLES = """
[sampling]
hard = "hardest"

[[sampling.sources]]
name = "in_batch"
rows = 64

[[sampling.sources]]
name = "memory_bank"
number = 512
start = 100
"""


def read(text: str) -> Run:
    return Run.from_dict(tomllib.loads(text), "run.toml")


def sources_of(run: Run) -> dict[str, dict[str, object]]:
    return {source.name: source.settings for source in run.sampling.sources}


def test_a_list_of_names_is_the_short_form_and_stays_one():
    run = read('[sampling]\nsources = ["in_batch", "uniform"]')
    assert run.sampling.sources == (NegativeSource("in_batch"), NegativeSource("uniform"))
    assert run.to_dict()["sampling"]["sources"] == ["in_batch", "uniform"]


@pytest.mark.bad_input
def test_names_alone_are_taken_in_python_too():
    assert Sampling(("in_batch", "uniform")).sources == (NegativeSource("in_batch"), NegativeSource("uniform"))


def test_each_table_has_its_own_settings_and_survives_toml():
    run = read(TABLES)
    assert sources_of(run) == {"in_batch": {"rows": 64}, "memory_bank": {"number": 512, "start": 100}}
    assert run.sampling.hard == "hardest"
    assert read(run.to_toml()) == run


def test_two_sources_may_have_another_number():
    run = read('[sampling]\nsources = ["in_batch", {name = "uniform", number = 8}, {name = "popularity", number = 16}]')
    assert sources_of(run) == {"in_batch": {}, "uniform": {"number": 8}, "popularity": {"number": 16}}
    assert read(run.to_toml()) == run


def test_an_old_run_file_is_the_same_run():
    old = """
    [sampling]
    sources = ["in_batch", "memory_bank"]
    number = 512
    in_batch_number = 64
    bank_start = 100
    bank_drift = 0.0
    bank_rescale = false
    mine_number = 8
    mine_ranks = [10, 99]
    mine_every = 1000
    mine_start = 0
    hard = "hardest"
    """
    bank = {"number": 512, "rows": 64, "start": 100}
    assert sources_of(read(old)) == {"in_batch": {"rows": 64}, "memory_bank": bank}


def test_every_old_key_has_a_setting_of_the_same_default_in_each_source_that_reads_it():
    from twotower.experiment.sources import source_parameters

    for key, old in OLD_OPTIONS.items():
        for name in old.sources:
            default = (source_parameters(name) or {})[old.key]
            assert (list(default) if isinstance(default, tuple) else default) == old.default, key


def test_an_old_key_that_no_source_reads_is_said(caplog):
    with caplog.at_level(logging.WARNING):
        run = read("[sampling]\nbank_start = 5\nmine_start = 0")
    assert caplog.messages == ["run.toml: sampling.bank_start is not read: it belongs to memory_bank"]
    assert run == Run()


def test_a_setting_of_a_source_is_set_by_the_name_of_the_source():
    run = read(TABLES).with_settings(["sampling.sources.memory_bank.start=7", "sampling.sources.in_batch.rows=0"])
    assert sources_of(run) == {"in_batch": {"rows": 0}, "memory_bank": {"number": 512, "start": 7}}


def test_an_old_key_on_the_command_line_takes_the_place_of_the_setting():
    run = read(TABLES).with_settings(["sampling.bank_start=9", "sampling.number=1024"])
    assert sources_of(run)["memory_bank"] == {"number": 1024, "start": 9}


def test_sources_that_stay_keep_their_settings():
    run = read(TABLES).with_settings(["sampling.sources=['uniform', 'memory_bank', 'in_batch']"])
    assert list(sources_of(run)) == ["uniform", "memory_bank", "in_batch"]
    assert sources_of(run)["memory_bank"] == {"number": 512, "start": 100}
    anew = read(TABLES).with_settings(["sampling.sources=[{name = 'memory_bank', number = 8}, 'in_batch']"])
    assert sources_of(anew)["memory_bank"] == {"number": 8}


def test_a_changed_run_leaves_the_first_as_it_was():
    run = read(TABLES)
    run.with_settings(["sampling.sources.memory_bank.start=7", "sampling.number=3"])
    assert run == read(TABLES)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sources = []", "sampling.sources is empty"),
        ('sources = "in_batch"', "sampling.sources must be a list, got 'in_batch'; write names"),
        ("sources = [3]", "[[sampling.sources]], table 1: got 3; write names"),
        ('sources = ["in_batch", {nmae = "uniform"}]', "[[sampling.sources]], table 2: got no name; write names"),
        ("sources = [{name = ['uniform']}]", "[[sampling.sources]], table 1: got ['uniform']"),
        ('sources = ["uniform", {name = "uniform"}]', "sampling.sources names 'uniform' twice"),
        (
            'number = 3\nsources = [{name = "uniform", number = 4}]',
            "sampling.number and sampling.sources.uniform.number say the same; keep sampling.sources.uniform.number",
        ),
        ("bank_start = 'soon'", "sampling.bank_start must be a whole number of at least 0, got 'soon'"),
        ("bank_start = true", "sampling.bank_start must be a whole number of at least 0, got True"),
        ("mine_ranks = 3", "sampling.mine_ranks must be a list such as [10, 99], got 3"),
    ],
)
def test_a_wrong_list_is_named_with_its_table(text, message):
    with pytest.raises(InputError) as error:
        read(f"[sampling]\n{text}")
    assert message in str(error.value)
    assert str(error.value).startswith("run.toml: ")
    assert "\n" not in str(error.value)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("uniforn", {}, "sampling.sources: unknown source of negatives 'uniforn'; did you mean 'uniform'?"),
        (
            "uniform",
            {"nubmer": 3},
            "unknown setting of source 'uniform' 'sampling.sources.uniform.nubmer'; did you mean "
            "'sampling.sources.uniform.number'?",
        ),
        (
            "uniform",
            {"number": -1},
            "sampling.sources.uniform.number must be a whole number of at least 0",
        ),
        ("uniform", {"number": "9"}, "must be a whole number of at least 0, got '9'"),
        (
            "memory_bank",
            {"rescale": 1},
            "sampling.sources.memory_bank.rescale must be true or false, got 1",
        ),
        ("memory_bank", {"drift": float("nan")}, "drift must be a number of at least 0, got nan"),
        ("index_mined", {"ranks": [1, "x"]}, "ranks must be a list such as [10, 99], got [1, 'x']"),
    ],
)
def test_a_wrong_setting_is_named_with_its_source(name, settings, message):
    with pytest.raises(InputError) as error:
        check_sources(Sampling((NegativeSource(name, settings),)))
    assert message in str(error.value)


@pytest.mark.bad_input
@pytest.mark.parametrize("setting", ["sampling.sources.uniform.number=3", "sampling.sources.memory_bank=3"])
def test_a_source_that_the_run_does_not_name_has_no_settings_to_change(setting):
    with pytest.raises(InputError, match=r"--set: no source .* in sampling.sources \(in_batch\); name it there first"):
        Run().with_settings([setting])


@pytest.fixture
def own() -> Iterator[str]:
    """A source of one's own with a setting."""

    @SAMPLERS.register("few_uniform")
    def few_uniform(context, *, few: int = 3) -> Uniform:
        return Uniform(context.num_items, few, context.generator("few"))

    yield "few_uniform"
    SAMPLERS.parts.pop("few_uniform")


def test_a_source_of_ones_own_has_settings_too(own, tiny_dataset):
    from twotower.experiment.context import BuildContext
    from twotower.experiment.learn import new_model
    from twotower.experiment.sources import build_sampler

    run = read(f'[[sampling.sources]]\nname = "{own}"\nfew = 2')
    context = BuildContext(run, tiny_dataset, tiny_dataset.log, new_model(run, tiny_dataset))
    ids = torch.arange(2, 6)
    batch = Batch(tiny_dataset.users(ids, torch.zeros(4, 3, dtype=torch.int64)), tiny_dataset.items(ids))
    assert len(build_sampler(context).sample(batch).ids) == 2
    with pytest.raises(InputError, match=r"sampling\.sources\.few_uniform\.fwe'; did you mean"):
        check_sources(Sampling((NegativeSource(own, {"fwe": 2}),)))
