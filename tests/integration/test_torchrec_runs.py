"""Runs whose rows TorchRec keeps: the curve of a sharded table, on any number of ranks, and a bundle for all."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from safetensors.torch import load_file

from twotower.core.errors import InputError, SharedError
from twotower.experiment.run import ModelSection, Run
from twotower.towers.torchrec_rows import check_torchrec
from twotower.training.checkpoint import load_checkpoint
from twotower.training.distributed import World

try:
    check_torchrec()
except InputError as missing:
    pytest.skip(str(missing), allow_module_level=True)

pytestmark = [pytest.mark.ranks, pytest.mark.slow]


def _runs() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "runs_of_sharded_tables", Path(__file__).with_name("test_sharded_runs.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


runs = _runs()
dataset = runs.dataset  # the fixture


def by_torchrec(run: Run) -> Run:
    """The same run, with the rows in TorchRec."""
    return replace(run, model=ModelSection(run.model.name, run.model.settings | {"table": "torchrec"}))


CLAIMS = ["in-batch", "three tables, drawn negatives", "in-batch, sequences"]
MORE = ["full softmax", "mined", "last fit"]


@pytest.mark.parametrize("name", CLAIMS + MORE)
def test_torchrec_follows_the_curve_of_a_sharded_table_in_one_process(name, dataset, tmp_path):
    run = (runs.CLAIMS | runs.MORE)[name]
    expected = runs.learnt(run, dataset)(World())
    work = runs.learnt(by_torchrec(run), dataset)
    for size in (1, 2, 3) if name in CLAIMS else (3,):
        runs.assert_same(runs.on_ranks(size, tmp_path, work), expected)


@pytest.mark.parametrize(("before", "after"), [(2, 2), (2, 1), (1, 3)])
def test_a_run_goes_on_from_its_checkpoint_on_any_number_of_ranks(before, after, dataset, tmp_path):
    training = replace(runs.TRAINING, epochs=3, batch_size=30, optimizer="adamw", checkpoint_seconds=0.0)
    run = runs.a_run(runs.THREE, training=replace(training, learning_rate=0.03, seed=5))
    expected = runs.learnt(run, dataset)(World())
    to = tmp_path / "b"
    stopped = runs.on_ranks(
        before, tmp_path, runs.learnt(by_torchrec(run), dataset, to=to, callbacks=[runs.StopAt(20)])
    )
    assert all(isinstance(one, ZeroDivisionError) for one in stopped), stopped
    state = load_checkpoint(tmp_path / "b.run" / "train.safetensors")
    assert state["best"]["item_table.shard"].shape == (dataset.schema.num_items, 4)
    assert state["optimizer"]["rows"]["history_table"]["squares"].shape == (dataset.schema.num_items,)
    again = runs.on_ranks(after, tmp_path, runs.learnt(by_torchrec(run), dataset, to=to, resume=True))
    runs.assert_same(again, expected)


@pytest.mark.parametrize("said", ["training.encode_rows looks rows up more often", "training.clip_norm reaches"])
def test_what_is_not_done_to_shared_rows_is_refused(said, dataset, tmp_path):
    [run] = [one for text, one in runs.REFUSED.items() if text.startswith(said)]
    first, second = runs.on_ranks(2, tmp_path, runs.learnt(by_torchrec(run), dataset))
    assert isinstance(first, InputError)
    assert said in str(first)
    assert isinstance(second, InputError | SharedError)


READ = """
import sys
sys.modules["torchrec"] = sys.modules["fbgemm_gpu"] = None
import torch
import twotower
from twotower.serving.bundle import Bundle
bundle = Bundle.load(sys.argv[1])
[item] = bundle.item_vocabulary.ids([int(bundle.item_ids[0])])
print(len(twotower.load(sys.argv[1]).recommend(history=[item], k=3)))
"""


def test_torchrun_writes_a_bundle_that_is_read_without_torchrec(dataset, tmp_path):
    folder = dataset.folder
    tables = {}
    for kind, size in (("sharded", 1), ("torchrec", 1), ("torchrec", 2)):
        run = runs.a_run(ModelSection("two_tower", runs.TOWER.settings | {"table": kind}))
        named = tmp_path / f"{kind}{size}.toml"
        named.write_text(replace(run, data=replace(run.data, path=str(folder))).to_toml(), encoding="utf-8")
        words = ["-m", "twotower", "train", str(named), "--to", str(tmp_path / f"{kind}{size}")]
        if size > 1:
            words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size), *words]
        done = subprocess.run(
            [sys.executable, *words],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        tables[kind, size] = load_file(tmp_path / f"{kind}{size}" / "weights.safetensors")
    expected = tables["sharded", 1]
    for found in tables.values():
        assert found.keys() == expected.keys()
        for name, value in found.items():
            assert value.numpy() == pytest.approx(expected[name].numpy(), rel=1e-3, abs=2e-5, nan_ok=True), name
    read = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path / "torchrec2")], capture_output=True, text=True, check=False
    )
    assert read.returncode == 0, read.stderr
    assert read.stdout.strip() == "3"
