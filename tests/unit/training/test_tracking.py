"""Figures of the geometry in the records, the warning, the stop, and the settings that ask for them."""

import json
import logging
import tomllib

import pytest
import torch

from twotower.core.errors import InputError
from twotower.diagnosis import diagnose
from twotower.diagnosis.quick import glance
from twotower.diagnosis.thresholds import load_thresholds
from twotower.experiment.catalogue import split_of
from twotower.experiment.learn import learn
from twotower.experiment.run import ModelSection, Run
from twotower.models.two_tower import TwoTower
from twotower.training.callbacks import EpochRecord, JsonLines, StopTraining
from twotower.training.config import Objective, Training
from twotower.training.tracking import Tracking, curve

FIGURES = ("mean_cosine", "centred_mean_cosine", "rankme", "participation_ratio", "effective_dimensions")


class Collapsing(TwoTower):
    """Its item vectors all point the same way."""

    def encode_items(self, items):
        states = super().encode_items(items)
        return torch.nn.functional.normalize(states * 1e-4 + 1.0, dim=1)


def tiny(kind, dataset):
    torch.manual_seed(1)
    return kind(dataset.schema, dim=6, field_dim=4, hidden=(8,))


def tiny_run(**training) -> Run:
    return Run(
        model=ModelSection("two_tower", {"dim": 6, "field_dim": 4, "hidden": [8]}),
        training=Training(epochs=3, batch_size=6, metric="recall@3", device="cpu", **training),
    )


def test_figures_are_those_of_the_diagnosis():
    vectors = torch.randn(60, 8, generator=torch.Generator().manual_seed(2)) + 0.4
    found = glance(vectors, load_thresholds())
    whole = diagnose(vectors)
    assert found.figures["mean_cosine"] == pytest.approx(whole.statistics["mean_cosine"], abs=1e-12)
    assert found.figures["centred_mean_cosine"] == pytest.approx(whole.centred["mean_cosine"], abs=1e-12)
    assert found.figures["rankme"] == pytest.approx(whole.centred["rankme"])
    assert found.figures["participation_ratio"] == pytest.approx(whole.centred["participation_ratio"])
    assert found.figures["effective_dimensions"] == whole.statistics["effective_dimensions"]


@pytest.mark.parametrize(
    ("shift", "dims", "verdict"), [(0.0, 16, "healthy"), (100.0, 16, "collapsed"), (0.0, 2, "collapsed")]
)
def test_verdict_agrees_with_the_diagnosis(shift, dims, verdict):
    vectors = torch.randn(120, 16, generator=torch.Generator().manual_seed(3))
    vectors[:, dims:] *= 1e-3
    assert glance(vectors + shift, load_thresholds()).verdict == verdict
    assert diagnose(vectors + shift).verdict == verdict


def test_identical_and_zero_vectors_have_a_verdict_and_undefined_figures():
    for vectors in (torch.ones(20, 4), torch.zeros(20, 4)):
        found = glance(vectors, load_thresholds())
        assert found.verdict == "collapsed"
        assert found.figures["rankme"] is None


def test_records_each_evaluation_and_leaves_the_model_alone(tiny_dataset):
    model = tiny(TwoTower, tiny_dataset)
    before = torch.get_rng_state()
    record = EpochRecord(1, 2, 0.5, 0.1, 1.0, {"recall@3": 0.5})
    Tracking(tiny_dataset, mode="record", metric="recall@3").epoch_done(record, model)
    assert set(record.geometry) == set(FIGURES)
    assert model.training
    assert torch.equal(before, torch.get_rng_state())
    unjudged = EpochRecord(2, 4, 0.5, 0.1, 1.0)
    Tracking(tiny_dataset, mode="record", metric="recall@3").epoch_done(unjudged, model)
    assert unjudged.geometry == {}


def test_warns_or_stops_on_collapse(tiny_dataset, caplog):
    model = tiny(Collapsing, tiny_dataset)
    with caplog.at_level(logging.WARNING):
        Tracking(tiny_dataset, mode="record").epoch_done(EpochRecord(4, 8, 0.5, 0.1, 1.0), model)
        assert not caplog.records
        Tracking(tiny_dataset, mode="warn").epoch_done(EpochRecord(4, 8, 0.5, 0.1, 1.0), model)
    assert "epoch 4: item vectors have collapsed" in caplog.text
    record = EpochRecord(5, 10, 0.5, 0.1, 1.0)
    with pytest.raises(StopTraining, match="epoch 5"):
        Tracking(tiny_dataset, mode="stop").epoch_done(record, model)
    assert record.geometry["mean_cosine"] > 0.98


def test_a_run_writes_the_figures_into_its_log(tiny_dataset, tmp_path):
    run = tiny_run(geometry="record")
    _, records = learn(run, tiny_dataset, split_of(run, tiny_dataset), folder=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert [EpochRecord.from_json(line) for line in lines] == records
    assert len([line["geometry/mean_cosine"] for line in lines]) == 3
    assert curve(records).count(" ") == 2
    assert curve([EpochRecord(1, 2, 0.5, 0.1, 1.0)]) == ""


def test_watching_changes_no_weight(tiny_dataset):
    split = split_of(tiny_run(), tiny_dataset)
    plain, _ = learn(tiny_run(), tiny_dataset, split)
    watched, _ = learn(tiny_run(geometry="warn"), tiny_dataset, split)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), watched.parameters(), strict=True))


def test_a_stopped_run_ends_and_logs_the_epoch_that_stopped_it(tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("twotower.experiment.learn.new_model", lambda run, dataset: tiny(Collapsing, dataset))
    run = tiny_run(geometry="stop")
    _, records = learn(run, tiny_dataset, split_of(run, tiny_dataset), folder=tmp_path)
    lines = (tmp_path / "train.jsonl").read_text().splitlines()
    assert len(records) == len(lines) == 1
    assert json.loads(lines[0])["geometry/mean_cosine"] > 0.98


def test_settings_come_back_from_toml():
    run = Run(objective=Objective(regularise={"uniformity": 0.1}), training=Training(geometry="stop"))
    assert Run.from_dict(tomllib.loads(run.to_toml())) == run
    changed = Run().with_settings(["objective.regularise={centring = 0.5}", "training.geometry=warn"])
    assert changed.objective.regularise == {"centring": 0.5}
    assert changed.training.geometry == "warn"


@pytest.mark.bad_input
def test_wrong_settings_are_named():
    with pytest.raises(InputError, match="did you mean 'uniformity'"):
        Objective(regularise={"uniformty": 1.0})
    with pytest.raises(InputError, match="at least 0"):
        Objective(regularise={"centring": -1.0})
    with pytest.raises(InputError, match="did you mean 'record'"):
        Training(geometry="recrd")
    with pytest.raises(InputError, match="must be a number"):
        Objective(regularise={"centring": "much"})


def test_models_without_vectors_are_refused(tiny_dataset):
    split = split_of(tiny_run(), tiny_dataset)
    for run in (
        Run(model=ModelSection("cold"), training=Training(geometry="warn", device="cpu")),
        Run(model=ModelSection("cold"), objective=Objective("bce", {"centring": 1.0}), training=Training(device="cpu")),
    ):
        with pytest.raises(InputError, match="model 'cold' has no"):
            learn(run, tiny_dataset, split)


@pytest.mark.parametrize("loss", ["full_softmax", "sampled_softmax", "bce"])
def test_regularised_training_lowers_the_mean_cosine(loss, tiny_dataset):
    figures = []
    for weights in ({}, {"centring": 5.0}):
        run = Run(
            model=ModelSection("two_tower", {"dim": 6, "field_dim": 4, "hidden": [8]}),
            objective=Objective(loss, weights),
            training=Training(
                epochs=12, batch_size=9, metric="recall@3", device="cpu", geometry="record", learning_rate=1e-2
            ),
        )
        _, records = learn(run, tiny_dataset, split_of(run, tiny_dataset))
        figures.append(records[-1].geometry["mean_cosine"])
    assert figures[1] < figures[0] - 0.02


def test_a_log_that_was_killed_goes_on_with_each_epoch_once(tiny_dataset, tmp_path):
    path = tmp_path / "train.jsonl"
    lines = [json.dumps(EpochRecord(epoch, 7 * epoch, 1.0, 0.1, 1.0).to_json()) for epoch in (1, 2, 3)]
    path.write_text("\n".join(lines)[:-50])
    log = JsonLines(path)
    log.started(4, 7, 14)  # the checkpoint of step 14 was written before its epoch was over
    for epoch in (2, 3):
        log.epoch_done(EpochRecord(epoch, 7 * epoch, 1.0, 0.1, 1.0), TwoTower(tiny_dataset.schema))
    assert [json.loads(line)["epoch"] for line in path.read_text().splitlines()] == [1, 2, 3]
    log = JsonLines(path)
    log.started(4, 7, 0)
    assert path.read_text() == ""
