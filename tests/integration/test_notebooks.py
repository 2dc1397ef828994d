"""How results show themselves: one short line, and in a notebook a table."""

from __future__ import annotations

import re

import pytest
import torch

import twotower
from twotower.audit.remedy import Remedy
from twotower.experiment.ladder.fitted import Fitted
from twotower.experiment.ladder.pick import Choice
from twotower.experiment.ladder.rungs import Rung
from twotower.serving.pipeline import Pipeline


@pytest.fixture
def trained(tiny_dataset, tmp_path):
    return twotower.train("ease", tiny_dataset, to=tmp_path / "b")


def cells(table: str) -> list[str]:
    assert table.count("<table>") == table.count("</table>") == 1
    return re.findall(r"<t[hd]>(.*?)</t[hd]>", table)


def test_everything_that_the_front_door_gives_is_one_short_line(trained, tmp_path):
    retriever = twotower.load(tmp_path / "b")
    shown = [
        repr(trained),
        repr(trained.run),
        repr(trained.test),
        repr(trained.dataset),
        repr(retriever),
        repr(retriever.bundle),
        repr(Pipeline(retriever, retriever, candidates=3)),
        repr(twotower.diagnose(torch.randn(50, 4))),
        repr(Remedy("marginals", "t.csv", 3, 2, [], {"verdict": "collapsed"}, {"verdict": "healthy"}, None, [])),
    ]
    for line in shown:
        assert len(line) < 260, line
        assert "\n" not in line
    assert re.fullmatch(r"Run\(ease: \w+, \d+ epochs; to_toml\(\) has all\)", shown[1])
    assert shown[8] == "Remedy(marginals: collapsed before, healthy after; t.csv)"


def test_a_diagnosis_says_its_verdict_and_its_reasons():
    collapsed = twotower.diagnose(torch.randn(200, 16) + 30.0)
    assert repr(collapsed) == "Diagnosis(collapsed: 200 vectors of 16 numbers, shared_direction)"
    table = collapsed._repr_html_()
    assert "<caption>collapsed</caption>" in table
    assert collapsed.reasons[0].sentence.split(";")[0] in table
    assert "effective_dimensions" in cells(table)


def test_answers_are_a_list_and_in_a_notebook_a_table(trained, tmp_path):
    answers = twotower.load(tmp_path / "b").recommend(history=["2"], k=3)
    assert isinstance(answers, list)
    assert [cells(answers._repr_html_())[3 + 3 * place + 1] for place in range(3)] == [answer.id for answer in answers]


def test_a_training_and_a_fit_show_the_figures_of_their_models(trained, tiny_dataset, tmp_path):
    assert trained._repr_html_() == trained.test._repr_html_()
    assert f"{trained.test.metrics['ndcg@10']:.4f}" in cells(trained._repr_html_())
    rungs = [
        Rung("ease", "ease", tmp_path, seconds=2.0, validation=trained.test, test=trained.test),
        Rung("<b>", "sasrec", tmp_path, left_out="no time"),
    ]
    fitted = Fitted(
        Choice("ease", "ease", {}, "it is the best"),
        rungs,
        tiny_dataset,
        trained.split,
        tmp_path,
        tmp_path,
        tmp_path,
        last_fit="",
        diagnosis=None,
        mask_seen=True,
        repeats=0.0,
    )
    table = fitted._repr_html_()
    assert "<caption>ease is taken: it is the best</caption>" in table
    assert cells(table)[-4:] == ["&lt;b&gt;", "no time", "", "0 s"]
