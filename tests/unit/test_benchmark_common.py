import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def common(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")
    import common

    return common


def options(common, *arguments: str):
    return common.parse(
        common.parser("Title.\n\nMore."), ["--threads", str(common.torch.get_num_threads()), *arguments]
    )


def test_a_quick_run_prints_one_object_and_keeps_nothing(common, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    record = common.finish("probe", options(common, "--quick", "--json"), settings={"n": 3}, figures={"ratio": 2.5})
    assert json.loads(capsys.readouterr().out) == record
    assert record["ratio"] == 2.5
    assert record["settings"] == {"n": 3}
    assert record["hardware"]["cores"] >= 1
    assert {"python", "torch", "twotower"} <= set(record["versions"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("out", [None, "elsewhere.json"])
def test_a_full_run_is_kept(common, tmp_path, monkeypatch, capsys, out):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    arguments = [] if out is None else ["--out", str(tmp_path / out)]
    common.finish("probe", options(common, *arguments), settings={}, figures={"seconds": 1.25, "runs": [1, 2]})
    kept = json.loads((tmp_path / (out or "probe.json")).read_text())
    assert kept["seconds"] == 1.25
    assert "1.25" in capsys.readouterr().out


def test_a_figure_may_not_hide_the_record(common):
    with pytest.raises(ValueError, match="hardware"):
        common.finish("probe", options(common, "--quick"), settings={}, figures={"hardware": 1})


def test_the_clock_counts_children(common):
    program = "import time\nwhile time.process_time() < 0.3: pass"
    with common.Clock() as clock:
        subprocess.run([sys.executable, "-c", program], check=True)
    assert clock.cpu >= 0.3


def test_peak_memory_is_that_of_the_process(common):
    program = (
        f"import sys; sys.path.insert(0, {str(common.ROOT / 'benchmarks')!r}); import common\n"
        "before = common.peak_mib(); held = bytearray(200 * 2**20); print(common.peak_mib() - before)"
    )
    grown = float(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout)
    assert 150 <= grown <= 250
