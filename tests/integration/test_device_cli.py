"""``--device`` wherever a model runs: it reaches the model, and an absent device is one line."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest
import torch

from twotower.cli.main import main
from twotower.core.devices import find_device, present
from twotower.core.errors import InputError
from twotower.data.dataset import Dataset
from twotower.experiment.recipes import default_run
from twotower.experiment.run import Run
from twotower.experiment.train import train
from twotower.serving.bundle import Bundle

ABSENT = "cuda:77"


def refused(*words: str | Path) -> str:
    """What a command that ends with status 2 says: one line, and nothing on standard output."""
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors), pytest.raises(SystemExit) as ended:
        main([*map(str, words)])
    lines = errors.getvalue().splitlines()
    assert (ended.value.code, out.getvalue(), len(lines)) == (2, "", 1), errors.getvalue()
    return lines[0]


@pytest.fixture
def bundle(tiny_dataset: Dataset, tmp_path: Path) -> Path:
    """A bundle that a training wrote, with its run file."""
    train(default_run("popularity"), to=tmp_path / "b", dataset=tiny_dataset)
    return tmp_path / "b"


def test_every_command_that_runs_a_model_refuses_an_absent_device_in_one_line(bundle, tmp_path):
    table = tmp_path / "items.csv"
    table.write_text("id,brand\ni2,x\ni3,y\n")
    new = tmp_path / "new"
    for words in (
        ("train", bundle / "run.toml", "--data", "somewhere", "--to", new),
        ("evaluate", bundle),
        ("compare", bundle, tmp_path / "c"),
        ("index", bundle, "--kind", "exact"),
        ("recommend", bundle, "--history", "2"),
        ("similar", bundle, "--item", "2"),
        ("vectors", bundle, "--to", tmp_path / "v.parquet"),
        ("diagnose", table, "--bundle", bundle),
        ("remedy", bundle, table, "--to", new),
        ("reproduce", "negatives", "--data", "somewhere", "--to", new),
        ("demo", "--to", new),
    ):
        line = refused(*words, "--device", ABSENT)
        assert f"device '{ABSENT}': not there; this machine has cpu" in line, words
    assert not new.exists()


def test_what_is_no_device_is_refused_too():
    for name in ("gpu", "meta", "cuda:one", ""):
        with pytest.raises(InputError, match="device '.*this machine has cpu"):
            find_device(name)


def test_auto_is_cuda_where_there_is_some_and_else_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert find_device("auto") == torch.device("cuda")


def test_what_is_there_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert present()[:3] == ["cpu", "cuda:0", "cuda:1"]


def test_train_notes_the_device_of_the_command_and_a_bundle_takes_auto(bundle, tiny_dataset, tmp_path, monkeypatch):
    from twotower.experiment import train as whole

    seen: list[Run] = []
    monkeypatch.setattr(whole, "train", lambda run, **_: seen.append(run) or train(run, dataset=tiny_dataset))
    with contextlib.redirect_stdout(io.StringIO()), pytest.raises(SystemExit) as ended:
        main(["train", str(bundle / "run.toml"), "--data", "x", "--to", str(tmp_path / "n"), "--device", "cpu"])
    assert (ended.value.code, seen[0].training.device) == (0, "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Bundle.load(bundle, "auto").device == torch.device("cpu")


def test_a_device_for_vectors_alone_is_refused(bundle):
    assert "--device says where the model of --bundle runs" in refused("diagnose", bundle, "--device", "auto")
