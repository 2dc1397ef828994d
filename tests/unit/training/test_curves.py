"""The picture of a training: well-formed, labelled, true to the log, readable on light and dark paper."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import pytest

from twotower.core.schema import Schema
from twotower.models.registry import build_model
from twotower.training.callbacks import EpochRecord, JsonLines
from twotower.training.curves import STYLE, Curves, curves_svg, nice_ticks

SVG = "{http://www.w3.org/2000/svg}"
MODEL = build_model("popularity", Schema(4, 4))
RECORDS = [
    {"epoch": 1, "step": 5, "loss": 4.0, "learning_rate": 0.1, "seconds": 1.0, "ndcg@10": 0.05},
    {"epoch": 2, "step": 10, "loss": 3.0, "learning_rate": 0.1, "seconds": 2.0},
    {"epoch": 3, "step": 15, "loss": 2.5, "learning_rate": 0.1, "seconds": 3.0, "ndcg@10": 0.09},
    {"epoch": 4, "step": 20, "loss": 2.4, "learning_rate": 0.1, "seconds": 4.0, "ndcg@10": 0.07},
]


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_both_curves_are_there_with_labelled_axes_and_the_best_epoch():
    svg = curves_svg(RECORDS, "ndcg@10")
    lines = [line.attrib["points"].split() for line in ElementTree.fromstring(svg).iter(f"{SVG}polyline")]
    assert [len(line) for line in lines] == [4, 3], "an epoch without validation has no point of the metric"
    shown = texts(svg)
    assert shown.count("epoch") == 2
    assert {"training loss", "validation ndcg@10", "best 0.09"} <= set(shown)
    assert "epoch 4, loss 2.4, best ndcg@10 0.09 in epoch 3" in shown
    heights = [float(point.split(",")[1]) for point in lines[0]]
    assert heights == sorted(heights), "a loss that falls goes down"


def test_dots_tell_their_values_on_hover():
    titles = [title.text for title in ElementTree.fromstring(curves_svg(RECORDS, "ndcg@10")).iter(f"{SVG}title")]
    assert "epoch 3: 0.09" in titles


def test_without_validation_there_is_one_chart():
    svg = curves_svg([{key: value for key, value in one.items() if key != "ndcg@10"} for one in RECORDS], "ndcg@10")
    assert svg.count("<polyline") == 1
    assert "validation" not in svg


@pytest.mark.parametrize("metric", [float("nan"), 0.0, 0.3])
def test_one_epoch_and_figures_that_do_not_move_can_be_drawn(metric):
    svg = curves_svg([{"epoch": 1, "loss": 0.0, "auc": metric}], "auc")
    ElementTree.fromstring(svg)
    assert "nan" not in svg


def brightness(colour: str) -> float:
    """Relative luminance of #rrggbb, as WCAG has it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1])
def test_lines_and_words_stand_out_on_light_and_on_dark_paper(scheme):
    rules = STYLE.split("@media (prefers-color-scheme: dark)")[scheme]
    colours = dict(re.findall(r"(\.?[a-z]+) \{[^}]*?(?:fill|stroke): (#\w{6})", rules))
    paper = brightness(colours[".paper"])
    for name in ("text", ".line", ".dot", ".mark", ".marked", ".axis"):
        bright, dark = sorted((brightness(colours[name]), paper), reverse=True)
        assert (bright + 0.05) / (dark + 0.05) >= 4.5, name


def test_the_picture_is_of_the_log_on_disk_from_before_a_resume_on(tmp_path):
    log = tmp_path / "train.jsonl"
    for part, step in ((RECORDS[:2], 0), (RECORDS[2:], 10)):
        writes, draws = JsonLines(log), Curves(log, "ndcg@10")
        for one in (writes, draws):
            one.started(4, 5, step)
        for record in part:
            for one in (writes, draws):
                one.epoch_done(EpochRecord.from_json(record), MODEL)
        draws.finished()
    assert [json.loads(line) for line in log.read_text().splitlines()] == RECORDS
    assert (tmp_path / "train.svg").read_text(encoding="utf-8") == curves_svg(RECORDS, "ndcg@10")


def test_a_training_that_did_no_epoch_leaves_no_picture(tmp_path):
    log = tmp_path / "train.jsonl"
    JsonLines(log).started(4, 5, 0)
    Curves(log, "auc").finished()
    assert not (tmp_path / "train.svg").exists()


def test_a_bundle_has_its_picture_beside_it(tiny_dataset, tmp_path):
    from twotower.experiment.recipes import default_run
    from twotower.experiment.train import train

    run = default_run("two_tower").with_settings(["model.dim=4", "training.epochs=2", "training.refit=true"])
    trained = train(run, to=tmp_path / "b", dataset=tiny_dataset)
    lines = (tmp_path / "b.run" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    drawn = (tmp_path / "b.run" / "train.svg").read_text(encoding="utf-8")
    assert drawn == curves_svg([json.loads(line) for line in lines], run.training.metric)
    assert f"{trained.records[-1].loss:.4g}" in drawn
    assert "validation" not in (tmp_path / "b.run" / "refit.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize(("low", "high"), [(0.068, 0.139), (-3.0, 1e6), (1e-9, 2e-9), (5.0, 5.0), (0.0, 0.0)])
def test_ticks_enclose_what_is_drawn_and_are_few(low, high):
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low <= high <= ticks[-1]
    assert 2 <= len(ticks) <= 8
    assert ticks == sorted(set(ticks))
