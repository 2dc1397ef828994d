"""``twotower train`` and ``evaluate`` as a user runs them: bundles, JSON, resume after Ctrl-C, and what is refused."""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from twotower.cli.main import main
from twotower.experiment.run import Run
from twotower.experiment.train import train
from twotower.serving.retriever import load

SMALL = ["--set", "model.dim=8", "--set", "training.epochs=2", "--set", "training.patience=0"]
LEARNT = ("two_tower", "sasrec", "gru4rec", "lrurec", "hstu", "ligr", "caser", "mamba4rec", "t2diff")
CLOSED = ("popularity", "random", "item_cosine", "ease")


class Done(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def twotower(*words: str | Path) -> Done:
    """The command line in this process: a fresh one would import torch again each time."""
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors), pytest.raises(SystemExit) as ended:
        main([*map(str, words)])
    return Done(int(ended.value.code or 0), out.getvalue(), errors.getvalue())


def refused(*words: str | Path) -> str:
    """Exit status 2, one line on standard error, nothing on standard output."""
    done = twotower(*words)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A small prepared data set with features, by the synthetic source."""
    from twotower.data import sources
    from twotower.data.prepare.prepare import prepare
    from twotower.data.prepare.spec import Spec
    from twotower.data.sources.synthetic import Synthetic

    folder = tmp_path_factory.mktemp("data")
    spec = sources.get("synthetic", folder / "raw", settings=Synthetic(users=60, items=40, cold_items=3, events=8))
    return prepare(Spec.from_toml(spec), folder / "prepared")


def test_a_target_that_can_hold_no_bundle_is_refused_before_any_work(data, tmp_path):
    bundle, foreign = tmp_path / "bundle", tmp_path / "foreign"
    words = ("train", "--data", data, "--model", "popularity", "--to")
    assert twotower(*words, bundle).returncode == 0
    foreign.mkdir()
    (foreign / "notes.txt").write_text("hi")
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert f"inner: lies inside the bundle {bundle}" in refused(*words, bundle / "inner")
    assert "lies inside the bundle" in refused(*words, bundle / "items" / "deep" / "er")
    assert "lies inside the bundle" in refused(*words, bundle / "weights.safetensors")
    assert "so it was not written by twotower" in refused(*words, foreign)
    assert "holds something other than a bundle" in refused(*words, data)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == before
    assert twotower("evaluate", bundle).returncode == 0
    assert twotower(*words, bundle).returncode == 0  # a bundle may be written anew


@pytest.mark.parametrize(("kept", "said"), [(True, "with --resume goes on (checkpoint in"), (False, "starts anew")])
def test_a_stopped_training_says_what_goes_on(kept, said, data, tmp_path, monkeypatch):
    from twotower.experiment import train

    def stopped(run, *, to, **_):
        folder = to.with_name(to.name + ".run")
        folder.mkdir()
        if kept:
            (folder / "train.safetensors").write_bytes(b"")
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "train", stopped)
    done = twotower("train", "--data", data, "--model", "two_tower", "--to", tmp_path / "b")
    assert done.returncode == 130
    assert said in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("model", [*LEARNT, *CLOSED])
def test_every_model_trains_evaluates_and_answers(model, data, tmp_path):
    settings = SMALL if model in LEARNT else []
    trained = twotower("train", "--data", data, "--model", model, "--to", tmp_path / "b", *settings, "--json")
    assert trained.returncode == 0, trained.stderr
    written = json.loads(trained.stdout)
    judged = json.loads(twotower("evaluate", tmp_path / "b", "--json").stdout)
    assert list(judged) == ["split", "users", "items", "metrics", "intervals", "notices"]
    assert judged["metrics"] == pytest.approx(written["metrics"], nan_ok=True)
    low, high = judged["intervals"]["recall@10"]
    assert low <= judged["metrics"]["recall@10"] <= high
    elsewhere = json.loads(
        twotower("evaluate", tmp_path / "b", "--data", data, "--split", "validation", "--json").stdout
    )
    assert elsewhere["split"] == "validation"
    user = load(tmp_path / "b").bundle.user_vocabulary.ids([2])[0]
    answered = twotower("recommend", tmp_path / "b", "--user", user, "-k", "3", "--json")
    assert answered.returncode == 0, answered.stderr
    assert len(json.loads(answered.stdout)["items"]) == 3


@pytest.mark.slow
def test_a_run_file_and_set_and_recipes(data, tmp_path):
    first = twotower("train", "--data", data, "--model", "sasrec", "--to", tmp_path / "a", *SMALL, "--json")
    again = twotower("train", tmp_path / "a" / "run.toml", "--to", tmp_path / "b", "--json")
    assert first.returncode == again.returncode == 0, first.stderr + again.stderr
    assert first.stdout == again.stdout
    assert (tmp_path / "a" / "run.toml").read_text() == (tmp_path / "b" / "run.toml").read_text()
    other = twotower("train", tmp_path / "a" / "run.toml", "--to", tmp_path / "c", "--set", "training.seed=1", "--json")
    assert other.stdout != first.stdout


def test_a_bundle_answers_alike_when_the_defaults_have_changed(data, tmp_path, monkeypatch):
    from twotower.models.two_tower import TwoTower

    trained = twotower("train", "--data", data, "--model", "two_tower", "--to", tmp_path / "b", *SMALL)
    assert trained.returncode == 0, trained.stderr
    user = load(tmp_path / "b").bundle.user_vocabulary.ids([2])[0]
    before = twotower("recommend", tmp_path / "b", "--user", user, "--json").stdout
    run = Run.load(tmp_path / "b" / "run.toml")
    assert run.model.settings["dropout"] == 0.0
    defaults = inspect.unwrap(TwoTower.__init__).__kwdefaults__  # it is wrapped where shapes are checked
    for setting, value in (("user_id", True), ("dropout", 0.5), ("history_length", 3)):
        monkeypatch.setitem(defaults, setting, value)
    assert twotower("recommend", tmp_path / "b", "--user", user, "--json").stdout == before
    assert train(run).run == run


@pytest.mark.slow
@pytest.mark.parametrize(("refit", "epochs"), [("false", 10), ("true", 24)])
def test_ctrl_c_leaves_a_state_that_resumes_to_the_same_weights(refit, epochs, data, tmp_path, caplog):
    words = ["train", "--data", data, "--model", "sasrec", "--set", "model.dim=8", "--set", f"training.epochs={epochs}"]
    words += ["--set", "training.patience=0", "--set", f"training.refit={refit}", "--set", "training.batch_size=4"]
    assert twotower(*words, "--to", tmp_path / "whole").returncode == 0

    stopped = subprocess.Popen(
        [sys.executable, "-m", "twotower", *map(str, words), "--to", str(tmp_path / "cut")],
        stderr=subprocess.PIPE,
        text=True,
    )
    log = tmp_path / "cut.run" / ("refit.jsonl" if refit == "true" else "train.jsonl")
    while not (log.is_file() and len(log.read_text().splitlines()) >= 2) and stopped.poll() is None:
        time.sleep(0.005)
    stopped.send_signal(signal.SIGINT)
    assert "--resume" in stopped.communicate()[1]
    assert stopped.returncode == 130
    assert not (tmp_path / "cut").exists()

    resumed = twotower(*words, "--to", tmp_path / "cut", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    expected, found = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert [left.name for left in (tmp_path / "cut.run").glob("*.safetensors")] == ["train.safetensors"]
    anew = twotower(*words, "--set", "training.epochs=1", "--to", tmp_path / "new", "--resume")
    assert anew.returncode == 0, anew.stderr
    assert "no checkpoint to resume from, so training starts from nothing" in caplog.text


@pytest.mark.slow
def test_a_resumed_run_must_be_the_same_run(tiny_dataset, tmp_path, caplog):
    from twotower.core.errors import InputError
    from twotower.experiment.recipes import default_run
    from twotower.experiment.run_folder import Claim, check_resumable, note_finished

    run = default_run("sasrec")
    Claim(tmp_path / "x.run", run, tiny_dataset).made()
    (tmp_path / "x.run" / "train.safetensors").touch()
    check_resumable(tmp_path / "x.run", run)
    with pytest.raises(InputError, match=r"had other settings \(seed = 0\)"):
        check_resumable(tmp_path / "x.run", run.with_settings(["training.seed=4"]))
    assert not caplog.text
    again = Claim(tmp_path / "x.run", run, tiny_dataset)
    again.started(1, 1, 0)
    assert "train.safetensors: what an earlier training had done is dropped; --resume would have gone on" in caplog.text
    note_finished(tmp_path / "x.run", run)
    (tmp_path / "x.run" / "train.safetensors").touch()
    caplog.clear()
    Claim(tmp_path / "x.run", run, tiny_dataset).made()
    assert not caplog.text, "a finished training is no work that is lost"
    assert not (tmp_path / "x.run" / "train.safetensors").exists()
    (tmp_path / "x.run" / "train.safetensors").touch()
    again.started(1, 1, 0)  # the last fit on all rows: the checkpoint is this run's own
    assert (tmp_path / "x.run" / "train.safetensors").exists()


def test_a_refused_run_costs_no_checkpoint(data, tmp_path):
    words = ["train", "--data", data, "--model", "two_tower", "--to", tmp_path / "b", *SMALL]
    assert twotower(*words).returncode == 0
    left = tmp_path / "b.run" / "train.safetensors"
    left.write_bytes(b"hours of work")
    noted = (tmp_path / "b.run" / "run.toml").read_text()
    for wrong in ("model.dimm=8", "sampling.sources=['uniforn']", "training.metric=recall"):
        refused(*words, "--set", "objective.loss=sampled_softmax", "--set", wrong)
    assert (left.read_bytes(), (tmp_path / "b.run" / "run.toml").read_text()) == (b"hours of work", noted)
    assert twotower(*words).returncode == 0
    assert left.read_bytes() != b"hours of work"


def test_what_train_refuses(data, tmp_path):
    to = ["--to", tmp_path / "b"]
    assert "did you mean 'sasrec'" in refused("train", "--data", data, "--model", "sasrek", *to)
    assert "give one of a run file, --model and --recipe; got none" in refused("train", "--data", data, *to)
    assert "got --model and --recipe" in refused("train", "--model", "ease", "--recipe", "sasrec", *to)
    assert "no data" in refused("train", "--model", "ease", *to)
    assert "name the bundle's folder" in refused("train", "--data", data, "--model", "ease")
    assert "not a prepared data set" in refused("train", "--data", tmp_path / "none", "--model", "ease", *to)
    assert "did you mean 'training.epochs'" in refused(
        "train", "--data", data, "--model", "sasrec", "--set", "training.epoch=2", *to
    )
    assert "did you mean 'model.dim'" in refused(
        "train", "--data", data, "--model", "sasrec", "--set", "model.dims=2", *to
    )
    assert "no such run file" in refused("train", tmp_path / "none.toml", *to)
    assert "training.device 'cuda:99'" in refused(
        "train", "--data", data, "--model", "two_tower", "--set", "training.device=cuda:99", *to
    )
    assert not (tmp_path / "b").exists()


def test_a_folder_that_is_not_ours_is_left_alone(data, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    assert "mine" in refused("train", "--data", data, "--model", "popularity", "--to", mine)
    assert (mine / "thesis.txt").read_text() == "years of work"


def test_what_evaluate_refuses(data, tmp_path):
    assert twotower("train", "--data", data, "--model", "popularity", "--to", tmp_path / "b").returncode == 0
    assert "did you mean 'test'" in refused("evaluate", tmp_path / "b", "--split", "tests")
    assert "list lengths" in refused("evaluate", tmp_path / "b", "-k", "ten")
    assert "at least 1" in refused("evaluate", tmp_path / "b", "-k", "0")
    shutil.copytree(tmp_path / "b", tmp_path / "broken")
    weights = tmp_path / "broken" / "weights.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    assert "weights.safetensors" in refused("evaluate", tmp_path / "broken")
