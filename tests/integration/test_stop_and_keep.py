"""Ctrl-C during ``twotower train``: stop after the step, keep the best epoch; more epochs by ``--resume``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from twotower.core.errors import InputError
from twotower.experiment.recipes import default_run
from twotower.experiment.run import Run
from twotower.experiment.run_folder import check_longer
from twotower.experiment.train import train
from twotower.serving.retriever import load
from twotower.training.callbacks import EpochRecord, Silent
from twotower.training.checkpoint import load_checkpoint
from twotower.training.interrupt import Stopped

FEW = ["model.dim=8", "model.field_dim=4", "model.history_length=3", "training.batch_size=4", "training.patience=0"]


def small(*settings: str) -> Run:
    """A run of a two-tower model that takes no time."""
    return default_run("two_tower").with_settings([*FEW, *settings])


class CtrlC(Silent):
    """Sends SIGINT to this process while a step of an epoch is under way."""

    def __init__(self, after_epoch: int) -> None:
        self.left = after_epoch

    def stepped(self, step: int) -> None:
        if self.left == 0:
            self.left -= 1
            os.kill(os.getpid(), signal.SIGINT)

    def epoch_done(self, record: EpochRecord, model: object) -> None:
        self.left -= 1


@pytest.mark.parametrize("refit", ["false", "true"])
def test_keep_writes_the_best_epoch_and_resume_goes_on(refit, tiny_dataset, tmp_path, heeds_ctrl_c, caplog):
    run = small("training.epochs=6", f"training.refit={refit}")
    whole = train(run, to=tmp_path / "whole", dataset=tiny_dataset)
    kept = train(run, to=tmp_path / "b", dataset=tiny_dataset, callbacks=[CtrlC(3)], keep=True)
    state = load_checkpoint(tmp_path / "b.run" / "train.safetensors")
    weights = load_file(tmp_path / "b" / "weights.safetensors")
    assert all(torch.equal(weights[name], value) for name, value in state["best"].items() if name in weights)
    assert len(kept.records) == state["progress"]["epoch"] == 3
    assert not Run.load(tmp_path / "b" / "run.toml").training.refit
    assert f"stopped after 3 of 6 epochs: kept is epoch {state['progress']['best_epoch']}, the best by" in caplog.text
    assert load(tmp_path / "b").recommend(history=["2"], k=2)

    again = train(run, to=tmp_path / "b", dataset=tiny_dataset, resume=True)
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in again.model.state_dict().items())
    assert Run.load(tmp_path / "b" / "run.toml") == Run.load(tmp_path / "whole" / "run.toml")


def test_ctrl_c_in_the_last_fit_keeps_the_best_epoch_of_the_first(tiny_dataset, tmp_path, heeds_ctrl_c):
    run = small("training.epochs=2", "training.refit=true")
    kept = train(run, to=tmp_path / "b", dataset=tiny_dataset, callbacks=[CtrlC(2)], keep=True)
    state = load_checkpoint(tmp_path / "b.run" / "train.safetensors")
    assert (tmp_path / "b.run" / "refit.safetensors").is_file()
    assert all(torch.equal(kept.model.state_dict()[name], value) for name, value in state["best"].items())


def test_without_an_epoch_there_is_nothing_to_keep(tiny_dataset, tmp_path, heeds_ctrl_c):
    with pytest.raises(Stopped):
        train(small(), to=tmp_path / "b", dataset=tiny_dataset, callbacks=[CtrlC(0)], keep=True)
    assert not (tmp_path / "b").exists()
    with pytest.raises(InputError, match=r"best epoch by validation, but training\.evaluate_every is 0"):
        train(small("training.evaluate_every=0"), to=tmp_path / "b", dataset=tiny_dataset, keep=True)


def test_a_finished_run_goes_on_with_more_epochs(tiny_dataset, tmp_path):
    long, short = (small(f"training.epochs={epochs}", "training.evaluate_every=2") for epochs in (5, 3))
    whole = train(long, to=tmp_path / "whole", dataset=tiny_dataset)
    train(short, to=tmp_path / "b", dataset=tiny_dataset)
    more = train(long, to=tmp_path / "b", dataset=tiny_dataset, resume=True)
    assert more.test.metrics == pytest.approx(whole.test.metrics, nan_ok=True)
    ours, theirs = (load_file(tmp_path / name / "weights.safetensors") for name in ("b", "whole"))
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    assert (tmp_path / "b.run" / "run.toml").read_text() == (tmp_path / "whole.run" / "run.toml").read_text()
    with pytest.raises(InputError, match="the run has 5 epochs, and may go on with more but not with 3"):
        train(short, to=tmp_path / "b", dataset=tiny_dataset, resume=True)


@pytest.mark.parametrize(("geometry", "left"), [("stop", []), ("warn", ["train.safetensors"])])
def test_a_run_that_a_collapse_may_end_leaves_no_state_to_go_on_from(geometry, left, tiny_dataset, tmp_path):
    train(small("training.epochs=2", f"training.geometry={geometry}"), to=tmp_path / "b", dataset=tiny_dataset)
    assert [path.name for path in (tmp_path / "b.run").glob("*.safetensors")] == left


def test_the_last_fit_is_made_anew_for_more_epochs(tiny_dataset, tmp_path):
    short, long = (small(f"training.epochs={epochs}", "training.refit=true") for epochs in (2, 5))
    whole = train(long, to=tmp_path / "whole", dataset=tiny_dataset)
    train(short, to=tmp_path / "b", dataset=tiny_dataset)
    (tmp_path / "b.run" / "refit.safetensors").write_bytes(b"of fewer epochs")
    more = train(long, to=tmp_path / "b", dataset=tiny_dataset, resume=True)
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in more.model.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["training.epochs=9", "training.seed=4"], r"had other settings \(seed = 0\)"),
        (["training.epochs=9", "model.dim=4"], r"had other settings \(dim = 8\)"),
        (["training.epochs=1"], "has 4 epochs, and may go on with more but not with 1"),
    ],
)
def test_nothing_but_more_epochs_may_change(settings, message):
    with pytest.raises(InputError, match=message):
        check_longer(Path("run.toml"), small("training.epochs=4"), small(*settings))


def test_a_rate_that_falls_over_all_epochs_cannot_have_more_of_them():
    one, other = (small(f"training.epochs={n}", "training.schedule=cosine") for n in (4, 9))
    check_longer(Path("run.toml"), one, one)
    with pytest.raises(InputError, match="'cosine' lowers the rate over all 4 epochs, so that a run of 9 is another"):
        check_longer(Path("run.toml"), one, other)


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """A data set on disk that another process can train on."""
    from twotower.data import sources
    from twotower.data.prepare.prepare import prepare
    from twotower.data.prepare.spec import Spec
    from twotower.data.sources.synthetic import Synthetic

    spec = sources.get("synthetic", tmp_path / "raw", settings=Synthetic(users=60, items=40, events=8))
    return prepare(Spec.from_toml(spec), tmp_path / "prepared")


def started(data: Path, to: Path, *words: str) -> subprocess.Popen[str]:
    """A training of many epochs in a process and session of its own, at its third epoch."""
    settings = [word for one in [*FEW, "training.epochs=100000"] for word in ("--set", one)]
    command = ["train", "--data", str(data), "--model", "two_tower", "--to", str(to), *settings, *words]
    process = subprocess.Popen(
        [sys.executable, "-m", "twotower", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    log = to.with_name(to.name + ".run") / "train.jsonl"
    while not (log.is_file() and len(log.read_text().splitlines()) >= 2) and process.poll() is None:
        time.sleep(0.01)
    return process


@pytest.mark.slow
def test_one_ctrl_c_with_keep_ends_well_and_its_bundle_answers(prepared, tmp_path, heeds_ctrl_c):
    process = started(prepared, tmp_path / "b", "--keep", "--json")
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert json.loads(out)["split"] == "test"
    assert "of 100000 epochs: kept is epoch" in errors
    assert "--resume goes on" in errors
    assert load(tmp_path / "b").recommend(user="u000001", k=3)


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once(prepared, tmp_path, heeds_ctrl_c):
    process = started(prepared, tmp_path / "b", "--keep")
    process.send_signal(signal.SIGINT)
    time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert not (tmp_path / "b").exists()
