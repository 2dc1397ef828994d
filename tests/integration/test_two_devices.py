"""The benchmark of several devices, in its quick form: two processes on the CPU against one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "benchmarks" / "two_devices.py"
CELLS = ("sasrec_256", "two_tower_8192", "sharded_8192")


@pytest.fixture(scope="module")
def record():
    command = [sys.executable, str(PROGRAM), "--device", "cpu", "--quick", "--json", "--cells", *CELLS]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout)


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS)
def test_two_processes_give_the_curve_of_one(record, cell):
    found = record[cell]
    assert found["loss_curve_gap_float64"] < 1e-13
    assert found["loss_curve_gap"] < 1e-5
    assert found["loss_curve_gap_of_one_device_repeated"] == 0.0
    curve = found["curves"]["one"]
    assert sum(curve[-3:]) < sum(curve[:3])


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS)
def test_speed_memory_and_communication_are_told(record, cell):
    found = record[cell]
    one, many = found["one"], found["many"]
    assert found["scaling"] == pytest.approx(many["samples_per_second"] / one["samples_per_second"])
    assert one["samples_per_second"] * one["step_milliseconds"] / 1e3 == pytest.approx(found["batch"])
    assert len(one["peak_mib"]) == 1
    assert len(many["peak_mib"]) == 2
    assert 0.0 < many["communication_share_host"] < 1.0
    moved = {name.split()[0]: told["calls"] / found["timed_steps"] for name, told in many["collectives"][0].items()}
    # All-gathers: the message of the step; with in-batch items also pairs and states.
    expected = {
        "sasrec_256": {"all_gather": 1, "all_reduce": 1},
        "two_tower_8192": {"all_gather": 3, "all_reduce": 2},
        "sharded_8192": {"all_gather": 3, "all_reduce": 2, "all_to_all_single": 4},
    }
    assert moved == expected[cell]
    # A sharded table sends its rows, and no gradient of the whole table.
    assert ("all-to-all" in found["about"]["item_gradient"]) == (cell == "sharded_8192")


@pytest.mark.slow
@pytest.mark.long
def test_a_cell_that_fails_is_told_beside_the_others(tmp_path):
    (tmp_path / "prepared").mkdir()
    command = [
        sys.executable,
        str(PROGRAM),
        "--device",
        "cpu",
        "--quick",
        "--json",
        "--data",
        str(tmp_path / "prepared"),
    ]
    answer = subprocess.run(
        [*command, "--cells", "sasrec_256", "sharded_8192"], capture_output=True, text=True, check=True, timeout=300
    )
    record = json.loads(answer.stdout)
    assert "not a prepared data set" in record["sasrec_256"]["error"]["many"]
    assert record["sharded_8192"]["loss_curve_gap_float64"] < 1e-13
