"""Settings by their name: which part of a run a keyword of ``twotower.train`` changes."""

from __future__ import annotations

from dataclasses import replace

import pytest

import twotower
from twotower.core.errors import InputError
from twotower.experiment.run import Run
from twotower.experiment.setting import with_setting
from twotower.sampling.uniform import Uniform
from twotower.training.sources import NegativeSource


def run_with(*sources: str) -> Run:
    run = Run()
    return replace(run, sampling=replace(run.sampling, sources=tuple(NegativeSource(name) for name in sources)))


@pytest.fixture
def few(monkeypatch):
    """A sampler of one's own with a setting that ours have too, and one that is also a key of [training]."""
    monkeypatch.setattr(twotower.SAMPLERS, "parts", dict(twotower.SAMPLERS.parts))

    @twotower.SAMPLERS.register("few")
    def few(context, *, number=3, seed=0):
        return Uniform(context.num_items, number, context.generator(f"few {seed}"))


def test_a_sampler_of_ones_own_gets_its_setting_by_name(few, caplog):
    (source,) = with_setting(run_with("few"), "number", 50).sampling.sources
    assert source == NegativeSource("few", {"number": 50})
    assert not caplog.messages, "it is read, so nothing says that it is not"


def test_a_setting_goes_to_the_source_that_always_read_it(few):
    sources = with_setting(run_with("uniform", "index_mined"), "number", 50).sampling.sources
    assert sources == (NegativeSource("uniform", {"number": 50}), NegativeSource("index_mined"))


def test_a_source_is_named_as_on_the_command_line(few):
    (_, source) = with_setting(run_with("in_batch", "few"), "sampling.sources.few.number", 5).sampling.sources
    assert source == NegativeSource("few", {"number": 5})


def test_a_key_of_a_section_and_of_a_source_wants_to_be_told_apart(few):
    with pytest.raises(InputError, match=r"'seed' is a key of training.seed and sampling.sources.few.seed; say which"):
        with_setting(run_with("few"), "seed", 5)
    assert with_setting(run_with("few"), "training.seed", 5).training.seed == 5
