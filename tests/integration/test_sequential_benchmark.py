"""The benchmark of sequence encoders: its quick form, and what a run that ends by its limit keeps."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
PROGRAM = FOLDER / "sequential.py"
BARE = f"""
import runpy, sys
sys.modules.update(dict.fromkeys(("duckdb", "polars", "faiss")))  # importing one fails
sys.path.insert(0, {str(FOLDER)!r})
sys.argv = [{str(PROGRAM)!r}, *sys.argv[1:]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
TOWERS = ["t2diff", "t2diff_printed"]


@pytest.fixture
def sequential(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import sequential

    monkeypatch.setattr(sequential.cells, "log_of", lambda **_: (sequential.cells.generated(24, 12, 50), False))
    small = sequential.cells.QUICK
    monkeypatch.setattr(
        sequential, "Sizes", lambda: replace(small, dim=8, history_length=8, batch=8, asked=4, epochs=2, most_rows=16)
    )
    monkeypatch.setattr(sequential, "LENGTHS", ())  # each would start a process
    return sequential


def run(sequential, out: Path, *more: str) -> dict:
    threads = str(torch.get_num_threads())
    sequential.main(["--json", "--threads", threads, "--out", str(out), "--towers", "sasrec", "gru4rec", *more])
    return json.loads(out.read_text())


@pytest.mark.slow
@pytest.mark.long
def test_the_quick_form_needs_no_preparing_and_gives_both_ratios():
    command = [sys.executable, "-c", BARE, "--quick", "--json", "--towers", *TOWERS]
    record = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout)
    for ratio in ("relative_epoch_time", "relative_latency", "relative_latency_batch_1"):
        assert list(record[ratio]) == TOWERS
        assert all(0.05 < value < 200 for value in record[ratio].values())
    assert record["not_done"] == []
    assert record["failed"] == {}
    raw = record["raw_seconds"]["epoch t2diff"]
    assert len(raw["sasrec"]) == len(raw["t2diff"]) >= 2


@pytest.mark.slow
def test_memory_is_measured_in_a_process_of_its_own_and_grows_with_the_history(sequential):
    short, long = (sequential.fresh("hstu", length)(sequential.Deadline(200)) for length in (20, 300))
    assert 0 < short["training_mib"] < 0.7 * long["training_mib"]
    assert 0 <= long["asking_mib"] <= long["training_mib"]


def test_every_registered_encoder_is_measured_and_sasrec_comes_first(sequential):
    towers = sequential.cells.towers()
    assert next(iter(towers)) == "sasrec"
    assert {"gru4rec", "lrurec", "hstu", "ligr", "caser", "mamba4rec", "t2diff"} <= set(towers)
    assert {"bert4rec", "stosa", "diffurec", "contrast_vae", "dat_plus"} <= set(towers)
    forms = [settings.get("restored", "predicted") for model, settings in towers.values() if model == "t2diff"]
    assert set(forms) == {"predicted", "as_served", "printed"}
    assert "two_tower" not in towers


def test_what_the_limit_leaves_out_is_said_and_done_by_the_next_run(sequential, tmp_path, capsys):
    out = tmp_path / "found.json"
    assert len(run(sequential, out, "--limit", "1e-9")["not_done"]) == 6
    calls = []
    latency = sequential.cells.latency

    def stopped(tower, *given, **named):
        calls.append(tower)
        if len(calls) > 2:
            raise sequential.OutOfTime
        return latency(tower, *given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequential.cells, "latency", stopped)
        patch.setattr(sequential.cells, "epoch", stopped)
        first = run(sequential, out)
    assert first["not_done"] == ["epoch sasrec", "epoch gru4rec", "latency_1 sasrec", "latency_1 gru4rec"]
    second = run(sequential, out)
    assert second["not_done"] == []
    assert second["raw_seconds"]["latency_4 gru4rec"] == first["raw_seconds"]["latency_4 gru4rec"]
    assert second["relative_epoch_time"]["sasrec"] == 1.0


def test_a_run_that_is_killed_leaves_the_result_of_every_cell_before(sequential, tmp_path, monkeypatch):
    def killed(*given, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(sequential.cells, "epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        run(sequential, tmp_path / "found.json")
    left = json.loads((tmp_path / "found.json").read_text())
    assert left["unfinished"] is True
    assert list(left["relative_latency"]) == ["sasrec", "gru4rec"]
    assert left["not_done"] == ["epoch sasrec", "epoch gru4rec", "latency_1 sasrec", "latency_1 gru4rec"]


def test_a_log_without_a_clock_gets_one_so_that_towers_that_read_times_do_their_work(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import sequential_cells

    monkeypatch.setattr(sequential_cells.movielens, "SIZES", {"ml-1m": (30, 40, 25)})
    bare = sequential_cells.movielens.random_log("ml-1m")
    monkeypatch.setattr(sequential_cells.movielens, "load", lambda *_: (bare, True))
    dataset, real = sequential_cells.log_of(quick=False, data=None)
    assert real
    assert bare.log.times is None
    assert dataset.schema.has_times
    assert dataset.log.items.equal(bare.log.items)


def test_cells_of_other_sizes_are_not_taken(sequential, tmp_path):
    mine, other = ({"dim": width} for width in (8, 16))
    sequential.Kept(tmp_path / "cells.jsonl", mine).keep("epoch", "gru4rec", {"relative": 2.0})
    assert sequential.Kept(tmp_path / "cells.jsonl", mine).found == {("epoch", "gru4rec"): {"relative": 2.0}}
    assert sequential.Kept(tmp_path / "cells.jsonl", other).found == {}


def test_a_cell_that_failed_is_told_and_tried_again_unless_it_had_no_memory(sequential, tmp_path):
    kept = sequential.Kept(tmp_path / "cells.jsonl", {})
    for kind in ("latency_1_captured", "memory_50"):
        kept.keep(kind, "gru4rec", {"error": "no"})
    told = sequential.table(kept, sequential.Sizes(), [])["failed"]
    assert told == {"latency_1_captured gru4rec": "no", "memory_50 gru4rec": "no"}
    assert list(sequential.Kept(tmp_path / "cells.jsonl", {}).found) == [("memory_50", "gru4rec")]


def test_no_training_goes_on_past_the_limit(sequential):
    dataset = sequential.cells.generated(24, 12, 50)
    with pytest.raises(sequential.OutOfTime):
        sequential.cells.epoch("gru4rec", dataset, sequential.Sizes(), sequential.Deadline(0.0))
    steps = sequential.Deadline(100.0)
    steps.end = 0.0
    with pytest.raises(sequential.OutOfTime):
        steps.stepped(1)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_tower_gives_the_states_that_it_gives(sequential):
    cells = sequential.cells
    dataset, sizes = cells.generated(24, 30, 50), replace(sequential.Sizes(), history_length=24)
    users = cells.asked(dataset, 4, sizes)
    for tower in sequential.COMPILED:
        model = cells.built(tower, dataset, sizes).eval()
        with torch.inference_mode():
            plain = model.encode_users(users)
            torch.testing.assert_close(cells.compiled(model).encode_users(users), plain, rtol=1e-4, atol=1e-5)
