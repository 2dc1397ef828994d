"""Notices in JSON: every warning, and all that the caption of the screen says."""

import json
import logging
from dataclasses import replace

import pytest

from twotower.cli.notices import gathered
from twotower.cli.results import show_test
from twotower.data.split import Targets
from twotower.evaluation.protocol import Protocol
from twotower.evaluation.report import notices
from twotower.evaluation.run import evaluate
from twotower.models.baselines.popularity import Popularity


@pytest.fixture
def result(tiny_dataset):
    return evaluate(
        Popularity(tiny_dataset.schema), tiny_dataset, Targets(tiny_dataset.log, tiny_dataset.log), Protocol(ks=(2,))
    )


def test_warnings_of_the_package_are_gathered_and_others_are_not():
    with gathered() as texts:
        logging.getLogger("twotower.serving.vocabulary").warning("1 of %d items is unknown\x1b", 2)
        logging.getLogger("twotower.serving").info("nothing to tell")
        logging.getLogger("elsewhere").warning("not ours")
    logging.getLogger("twotower").warning("too late")
    assert texts == ["1 of 2 items is unknown\\x1b"]


def test_a_gathered_warning_still_reaches_standard_error(monkeypatch, capsys):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(logging.getLogger("twotower"), "handlers", [])
    with gathered() as texts:
        logging.getLogger("twotower.serving").warning("said once")
    assert texts == ["said once"]
    assert capsys.readouterr().err == "said once\n"


def test_the_json_of_an_evaluation_says_what_the_screen_says(result, capsys):
    assert result.seen_truths > 0  # every truth is in the history here
    result = replace(result, unreachable_truths=3)
    show_test(result, title="", as_json=True, warnings=["written with torch 1"])
    said = json.loads(capsys.readouterr().out)["notices"]
    assert said == ["written with torch 1", *notices(result)]
    show_test(result, title="", as_json=False)
    screen = " ".join(capsys.readouterr().out.split())
    for sentence in notices(result, of="of them"):
        assert sentence in screen
    assert len(said) == 3
