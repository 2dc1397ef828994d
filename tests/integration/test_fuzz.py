"""A short run of the fuzzer: whatever the input, it is served, or refused with one line and status 2."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

import pytest


@pytest.fixture
def fuzz(root, monkeypatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(root / "benchmarks")
    import fuzz

    yield fuzz
    for name in ("fuzz", "fuzz_inputs", "fuzz_flips", "common"):
        sys.modules.pop(name, None)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_nonsense_is_served_or_refused_with_one_line(fuzz):
    findings, ends = fuzz.run(range(70), seed=17)
    assert not findings
    assert {end.split(":")[0] for end in ends} == {"log", "table", "spec", "run", "diagnose"}
    assert sum(ends.values()) == 70


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_no_changed_byte_of_a_bundle_a_prepared_set_or_a_checkpoint_passes(fuzz):
    findings, ends = fuzz.run_flips(3, seed=17)
    assert not findings
    assert {"flip bundle: 2", "flip prepared: 2", "flip checkpoint: 2"} <= set(ends)
    assert not {"flip bundle: 0", "flip bundle: 3", "flip prepared: 0"} & set(ends)


def test_the_fuzzer_calls_a_traceback_a_long_line_and_a_strange_status_findings(fuzz):
    assert "ZeroDivisionError" in fuzz.wrong("log", fuzz.Ended(1, "", "", "Traceback\nZeroDivisionError: x"), None)
    assert "exit status 130" in fuzz.wrong("log", fuzz.Ended(130, "", ""), None)
    assert "exit status 3" in fuzz.wrong("log", fuzz.Ended(3, "", ""), None)
    assert "characters" in fuzz.wrong("log", fuzz.Ended(2, "", "error: " + "x" * 500), None)
    assert "not one error line" in fuzz.wrong("log", fuzz.Ended(2, "", "error: a\nerror: b"), None)
    assert "not one error line" in fuzz.wrong("log", fuzz.Ended(2, "", ""), None)
    counted = '{"rows": {"log": {"lines": {"read": 2, "malformed": 1, "blank": 0, "header": 1}}}}'
    assert "has 5 lines" in fuzz.wrong("log", fuzz.Ended(0, counted, ""), 5)
    assert not fuzz.wrong("log", fuzz.Ended(0, counted, ""), 4)
    assert not fuzz.wrong("log", fuzz.Ended(2, "", "a notice\nerror: one line"), None)
    assert not fuzz.wrong("diagnose", fuzz.Ended(3, "collapsed", ""), None)
