"""``twotower tune`` as a user runs it: trials, the best run file, resume after Ctrl-C, and what is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import twotower
from twotower.cli.main import main
from twotower.core.errors import InputError
from twotower.core.lock import writing_alone
from twotower.data.dataset import Dataset
from twotower.experiment.recipes import default_run
from twotower.experiment.run import Run
from twotower.experiment.tuning import tune as whole
from twotower.experiment.tuning.axes import Grid, Range
from twotower.experiment.tuning.trials import Trial, read_trials, write_trials
from twotower.training.callbacks import Silent

pytest.importorskip("optuna")

SMALL = ["--set", "model.dim=8", "--set", "model.field_dim=8", "--set", "training.epochs=2"]
SPACE = {"training.learning_rate": {"low": 0.001, "high": 0.1, "log": True}, "training.batch_size": [16, 32]}
FEW = {"dim": 8, "field_dim": 8, "epochs": 2}


class Done(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def cli(*words: str | Path) -> Done:
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors), pytest.raises(SystemExit) as ended:
        main([*map(str, words)])
    return Done(int(ended.value.code or 0), out.getvalue(), errors.getvalue())


def without_seconds(trials: list[Trial]) -> list[Trial]:
    return [replace(trial, seconds=0.0) for trial in trials]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A small prepared data set, by the synthetic source."""
    from twotower.data import sources
    from twotower.data.prepare.prepare import prepare
    from twotower.data.prepare.spec import Spec
    from twotower.data.sources.synthetic import Synthetic

    folder = tmp_path_factory.mktemp("data")
    spec = sources.get("synthetic", folder / "raw", settings=Synthetic(users=60, items=40, cold_items=3, events=8))
    return prepare(Spec.from_toml(spec), folder / "prepared")


def test_the_best_run_file_is_what_train_takes_and_has_the_figure_that_the_table_says(data, tmp_path):
    done = cli("tune", "--model", "two_tower", "--data", data, *SMALL, "--to", tmp_path / "t", "--trials", 3, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    best = said["best"]
    assert len(said["trials"]) == 3
    assert best["figure"] == max(trial["figure"] for trial in said["trials"])
    assert "trial 3: ndcg@10" in done.stderr
    assert " left" in done.stderr
    assert (
        f"# Trial {best['number']} of 3: validation ndcg@10 {best['figure']:.4f}" in Path(said["best_run"]).read_text()
    )
    assert cli("train", said["best_run"], "--to", tmp_path / "bundle").returncode == 0
    lines = (tmp_path / "bundle.run" / "train.jsonl").read_text().splitlines()
    assert max(json.loads(line)["ndcg@10"] for line in lines) == best["figure"]


def test_a_run_file_narrows_what_is_tried_and_set_takes_a_key_out(data, tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(
        f"[data]\npath = '{data}'\n[model]\nname = 'two_tower'\ndim = 8\nfield_dim = 8\n[training]\nepochs = 1\n"
        "[objective]\nloss = 'sampled_softmax'\n[tune]\n'training.batch_size' = [8, 16]\n'model.dropout' = [0.1, 0.3]\n"
    )
    words = ("tune", path, "--set", "model.dropout=0.2", "--space", "model.dim=4", "--to", tmp_path / "t")
    done = cli(*words, "--trials", 2)
    assert done.returncode == 0, done.stderr
    assert "2 trials of two_tower by validation ndcg@10" in done.stdout
    trials = read_trials(tmp_path / "t")
    assert {trial.values["training.batch_size"] for trial in trials} == {8, 16}
    assert all(trial.values["model.dim"] == 4 and "model.dropout" not in trial.values for trial in trials)
    assert Run.load(tmp_path / "t" / "best.toml").model.settings["dropout"] == 0.2


def test_a_tuning_that_goes_on_has_the_trials_of_one_that_was_not_stopped(data, tmp_path):
    ask = {"model": "two_tower", "data": data, "space": SPACE, **FEW}
    whole_one = twotower.tune(**ask, to=tmp_path / "whole", trials=4)
    twotower.tune(**ask, to=tmp_path / "parts", trials=2)
    parts = twotower.tune(**ask, to=tmp_path / "parts", trials=4, resume=True)
    assert without_seconds(parts.trials) == without_seconds(whole_one.trials)
    assert read_trials(tmp_path / "parts") == parts.trials
    with pytest.raises(InputError, match="holds a tuning already; --resume goes on with it"):
        twotower.tune(**ask, to=tmp_path / "parts")
    with pytest.raises(InputError, match=r"had another space \(training.batch_size\)"):
        other = {**SPACE, "training.batch_size": [16, 64]}
        twotower.tune(**{**ask, "space": other}, to=tmp_path / "parts", resume=True)
    with pytest.raises(InputError, match="had another seed"):
        twotower.tune(**ask, to=tmp_path / "parts", resume=True, seed=1)


class StopIn(Silent):
    """Presses Ctrl-C in an epoch of a trial."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def epoch_done(self, record, model) -> None:
        if record.epoch == self.epoch:
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_leaves_the_best_so_far_and_the_trial_is_done_again(heeds_ctrl_c, data, tmp_path):
    run = default_run("two_tower").with_settings(["model.dim=8", "model.field_dim=8", "training.epochs=3"])
    run = replace(run, data=replace(run.data, path=str(data)))
    ask = {"run": run, "space": SPACE, "fixed": list(FEW)}
    straight = whole.tune(**ask, to=tmp_path / "whole", trials=3)
    stopped = whole.tune(
        **ask, to=tmp_path / "t", trials=3, watch=lambda title: [StopIn(1)] if title == "trial 2" else []
    )
    assert stopped.stopped
    assert [trial.state for trial in stopped.trials] == ["done", "cut"]
    assert set(stopped.trials[1].curve) == {1}
    assert Run.load(tmp_path / "t" / "best.toml") == stopped.run
    assert "trial" in (tmp_path / "t" / "report.html").read_text()
    again = whole.tune(**ask, to=tmp_path / "t", trials=3, resume=True)
    assert without_seconds(again.trials) == without_seconds(straight.trials)


def test_the_budget_ends_a_trial_between_its_steps_and_its_epochs_count(data, tmp_path):
    endless = {**FEW, "epochs": 100_000, "patience": 0}  # else a trial may end by itself just before the budget does
    budget_over = twotower.tune("two_tower", data, to=tmp_path, budget="3s", space=SPACE, **endless)
    assert budget_over.trials[-1].state == "cut"
    assert budget_over.best.figure > 0
    assert sum(trial.seconds for trial in budget_over.trials) < 60


def test_the_test_events_are_never_read(data, tmp_path):
    dataset = Dataset.load(data)
    log = dataset.log
    last = torch.zeros(log.num_events, dtype=torch.bool)
    last[log.offsets[1:][log.lengths >= 3] - 1] = True
    poisoned = log._replace(items=torch.where(last, 2 + (log.items + 5) % 38, log.items))
    assert (poisoned.items != log.items).any()
    found = [
        twotower.tune(
            "two_tower",
            replace(dataset, log=one),
            to=tmp_path / name,
            space=SPACE,
            trials=2,
            split="leave-one-out",
            **FEW,
        )
        for name, one in (("as it is", log), ("poisoned", poisoned))
    ]
    assert without_seconds(found[0].trials) == without_seconds(found[1].trials)


def test_a_trial_is_given_a_split_whose_test_is_empty(data):
    from twotower.experiment.tuning.trial import split_without_test

    dataset = Dataset.load(data)
    split = split_without_test(default_run("two_tower"), dataset)
    assert split.test.truth.num_events == split.test.history.num_events == 0
    assert split.validation.truth.num_events > 0
    assert len(split_without_test(default_run("cold"), dataset).test) == 0


def test_no_trial_is_begun_that_could_come_to_nothing():
    done = [Trial(1, {}, "done", 0.1, seconds=100.0), Trial(2, {}, "pruned", 0.1, seconds=1.0)]
    assert [whole.is_time_for_another(done, left) for left in (50.0, 6.0, 4.0, -1.0)] == [True, True, False, False]
    assert whole.is_time_for_another([], 0.1)
    assert not whole.is_time_for_another([], 0.0)


def test_settings_that_do_not_suit_each_other_make_a_failed_trial_with_its_reason(data, tmp_path):
    space = {"training.batch_size": [8, 64]}
    found = twotower.tune("two_tower", data, to=tmp_path, space=space, trials=2, learning_rate=0.01, weight_decay=0.0,
                          pooling="mean", temperature=0.1, history_dropout=0.0, in_batch_number=16, **FEW)  # fmt: skip
    failed = [trial for trial in found.trials if trial.state == "failed"]
    assert [trial.values for trial in failed] == [{"training.batch_size": 8}]
    assert "16 of the 8 rows" in failed[0].reason
    assert failed[0].reason in (tmp_path / "report.html").read_text()


def test_a_tuning_whose_first_trial_is_refused_leaves_nothing_and_begins_when_that_is_mended(data, tmp_path):
    ask = {"model": "two_tower", "data": data, "to": tmp_path / "t", "space": SPACE, "trials": 1, **FEW, "epochs": 1}
    with pytest.raises(InputError, match="16 of the 4 rows"):
        twotower.tune(**ask | {"space": {"training.batch_size": [4]}}, in_batch_number=16)
    assert not list(tmp_path.iterdir())
    assert twotower.tune(**ask).best.number == 1
    with pytest.raises(InputError):
        twotower.tune(**ask, in_batch_number=16, resume=True)
    assert [trial.state for trial in read_trials(tmp_path / "t")] == ["done"]


def test_one_tuning_at_a_time_writes_a_folder(data, tmp_path):
    words = ("--model", "popularity", "--data", data, "--to", tmp_path / "t")
    with ThreadPoolExecutor(1) as other, writing_alone(tmp_path / "t"):
        assert "another thread of this process writes it" in other.submit(refused, *words).result()
    assert not list(tmp_path.iterdir())


def test_closed_forms_and_pre_rankers_are_tuned_by_their_own_figure(data, tmp_path):
    closed = twotower.tune("item_cosine", data, to=tmp_path / "closed", trials=3)
    assert closed.best.figure > 0
    assert closed.best.curve == {}
    pairs = twotower.tune("cold", data, to=tmp_path / "pairs", trials=2, epochs=1, hidden=[8])
    assert pairs.metric == "auc"
    assert 0 < pairs.best.figure <= 1


def test_the_edge_of_a_range_is_named_where_the_best_value_lies_at_it():
    space = {"model.dim": Grid((8, 16)), "training.learning_rate": Range(0.001, 0.1, log=True)}
    trials = [
        Trial(1, {"model.dim": 8, "training.learning_rate": 0.01}, "done", 0.1),
        Trial(2, {"model.dim": 16, "training.learning_rate": 0.02}, "done", 0.2),
    ]
    (line,) = whole.edges(space, trials)
    assert line.startswith("model.dim = 16 is at the highest edge of its list")
    assert whole.edges(space, trials[1:]) == []


def test_names_on_the_page_are_text(tmp_path):
    from twotower.experiment.tuning.page import write_page

    trial = Trial(1, {"model.<b>": "<script>"}, "done", 0.5, {1: 0.5}, reason="<i>")
    write_page(
        tmp_path / "p.html",
        metric="<x>",
        trials=[trial],
        space={"model.<b>": Grid(("<script>",))},
        importance={},
        warnings=[],
    )
    text = (tmp_path / "p.html").read_text()
    assert not any(tag in text for tag in ("<script", "<b>", "<i>", "<x>"))


def refused(*words: str | Path) -> str:
    done = cli("tune", *words)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.bad_input
def test_what_cannot_be_tuned_is_one_line_and_leaves_no_folder(data, tmp_path):
    to = tmp_path / "t"
    words = ("--model", "two_tower", "--data", data, "--to", to)
    assert "did you mean 'two_tower'" in refused("--model", "two_towr", "--data", data, "--to", to)
    assert "give one of a run file" in refused("--data", data, "--to", to)
    assert "name the tuning's folder" in refused("--model", "two_tower", "--data", data)
    assert "no data" in refused("--model", "two_tower", "--to", to)
    for budget in ("0m", "30", "-5m", "soon", "9" * 400 + "m"):
        line = refused(*words, "--budget", budget)
        assert "write it as 90s, 10m or 1h30m" in line
        assert len(line) < 300
    assert "trials must be at least 0" in refused(*words, "--trials", "-1")
    assert "evaluate_every is 0" in refused(
        *words, "--set", "training.evaluate_every=0", "--set", "training.patience=0"
    )
    assert "nothing left to tune" in refused("--model", "popularity", "--data", data, "--to", to)
    assert "write section.key=[0.1, 0.3]" in refused(*words, "--space", "model.dropout")
    assert "did you mean 'model.dropout'" in refused(*words, "--space", "model.dropuot=[0.1]")
    assert "did you mean 'ndcg'" in refused(*words, *SMALL, "--set", "training.metric=ndgc@10")
    assert "model 'ease' is fitted without validation pairs" in refused(
        "--model", "ease", "--data", data, "--to", to, "--set", "data.split=pre-ranking"
    )
    assert not (to / "trials.jsonl").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    assert "holds no tuning" in refused(*words[:-1], tmp_path / "full")


@pytest.mark.bad_input
def test_a_split_without_validation_events_is_refused(tiny_dataset, tmp_path, monkeypatch):
    from twotower.data.split import Targets
    from twotower.experiment.tuning import trial

    nobody = tiny_dataset.log.select(torch.zeros(tiny_dataset.log.num_events, dtype=torch.bool))
    split = trial.split_of(default_run("two_tower"), tiny_dataset)
    monkeypatch.setattr(trial, "split_of", lambda run, dataset: split._replace(validation=Targets(nobody, nobody)))
    with pytest.raises(InputError, match="the split holds no validation events"):
        twotower.tune("two_tower", tiny_dataset, to=tmp_path)


@pytest.mark.bad_input
@pytest.mark.parametrize("text", ["{", "{}", "[1]", '{"number": 2}', "\x00"])
def test_a_damaged_record_is_refused_with_its_line(text, data, tmp_path):
    ask = {"model": "item_cosine", "data": data, "trials": 2}
    twotower.tune(**ask, to=tmp_path)
    with (tmp_path / "trials.jsonl").open("a") as file:
        file.write(text + "\n")
    with pytest.raises(InputError, match=r"trials.jsonl: line 3 is no"):
        twotower.tune(**ask, to=tmp_path, resume=True)


@pytest.mark.bad_input
def test_no_changed_byte_of_a_record_is_read_as_another_trial(tmp_path):
    trials = [
        Trial(1, {"model.dim": 8, "training.batch_size": 64}, "done", 0.25, {1: 0.125, 2: 0.25}, 1.5),
        Trial(2, {"model.dim": 16, "training.batch_size": 32}, "failed", None, reason="out of memory"),
    ]
    write_trials(tmp_path, trials)
    path = tmp_path / "trials.jsonl"
    written, refused = path.read_bytes(), 0
    for place in range(len(written)):
        path.write_bytes(written[:place] + bytes([written[place] ^ 1 << place % 8]) + written[place + 1 :])
        found = None
        with contextlib.suppress(InputError):
            found = read_trials(tmp_path)
        refused += found is None
        assert found in (None, trials), f"byte {place}"
    assert refused > 0.95 * len(written)
    path.write_bytes(written)
    assert read_trials(tmp_path) == trials


@pytest.mark.bad_input
def test_without_optuna_a_line_says_what_to_install(data, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(InputError, match=r"pip install 'twotower\[tune\]'"):
        twotower.tune("two_tower", data, to=tmp_path / "t")
    assert not (tmp_path / "t").exists()


class Trainings(Silent):
    """Counts trainings that begin."""

    begun = 0

    def started(self, epochs: int, steps_per_epoch: int, step: int) -> None:
        self.begun += 1


def test_a_trial_is_not_fitted_again_and_the_best_run_has_refit_as_it_was(data, tmp_path):
    run = default_run("two_tower").with_settings(["model.dim=8", "training.epochs=1", "training.refit=true"])
    run, counted = replace(run, data=replace(run.data, path=str(data))), Trainings()
    found = whole.tune(run, to=tmp_path, space=SPACE, trials=1, watch=lambda title: [counted])
    assert counted.begun == 1
    assert found.run.training.refit
    assert dataclasses.asdict(Run.load(tmp_path / "best.toml")) == dataclasses.asdict(found.run)
