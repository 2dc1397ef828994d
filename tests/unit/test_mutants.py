"""The script that plants faults: what is a kill, what survives, and what is neither."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

TESTS = {
    "double": "from twotower.double import double\n\n\ndef test_double():\n    assert double(3) == 6\n",
    "nothing": "def test_nothing():\n    assert True\n",
    "wrong": "def test_wrong():\n    assert False\n",
}


@pytest.fixture
def mutants(root, monkeypatch):
    monkeypatch.syspath_prepend(root / "benchmarks")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # loading them takes longer than the tests of a function
    import mutants

    yield mutants
    del sys.modules["mutants"]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package of one function, with a test that sees it, one that does not, and one that always fails."""
    for folder in ("src/twotower", "tests", "docs"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "src/twotower/__init__.py").touch()
    (tmp_path / "src/twotower/double.py").write_text("def double(x):\n    return 2 * x\n")
    (tmp_path / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\naddopts = "--import-mode=importlib -q"\nmarkers = ["slow", "gpu", "browser"]\n'
    )
    for name, text in TESTS.items():
        (tmp_path / f"tests/test_{name}.py").write_text(text)
    return tmp_path


def fault(mutants, new: str = "3 * x", *, old: str = "2 * x", test: str = "double"):
    return mutants.Mutant(f"{old} to {new}", "double.py", old, new, (f"tests/test_{test}.py",))


@pytest.mark.slow
def test_a_fault_that_a_test_sees_is_killed_and_others_survive(mutants, package, tmp_path_factory, capsys):
    copy = mutants.copied(tmp_path_factory.mktemp("copy"), package)
    seen, unseen, same = fault(mutants), fault(mutants, "4 * x", test="nothing"), fault(mutants, "x + x")
    assert mutants.survivors([seen, unseen, same], copy, told=True) == ["2 * x to 4 * x", "2 * x to x + x"]
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["killed", "SURVIVED", "SURVIVED"]
    assert (copy / "src/twotower/double.py").read_text() == (package / "src/twotower/double.py").read_text()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"old": "5 * x"}, "holds the old text 0 times"),
        ({"old": "x"}, "holds the old text 2 times"),
        ({"new": "2 * x"}, "holds the old text 1 times"),
        ({"test": "wrong"}, "fail without any fault"),
        ({"test": "absent"}, "exit status 4"),
    ],
)
def test_what_says_nothing_of_the_tests_is_an_error_and_no_kill(mutants, package, changed, message):
    with pytest.raises(mutants.MutantError, match=message):
        mutants.survivors([fault(mutants, **changed)], package, told=False)


@pytest.mark.slow
def test_a_fault_under_which_the_tests_cannot_be_read_is_an_error(mutants, package):
    with pytest.raises(mutants.MutantError, match="ERROR collecting"):
        mutants.survivors([fault(mutants, "(")], package, told=False)


def test_the_list_is_that_of_this_package(mutants, root):
    planted = mutants.read_list()
    assert len(planted) >= 50
    assert 10 <= sum(mutant.quick for mutant in planted) <= 15
    for mutant in planted:
        mutant.planted_in((root / "src/twotower" / mutant.file).read_text(encoding="utf-8"))
        assert all((root / test.split("::")[0]).is_file() for test in mutant.tests)


@pytest.mark.slow
def test_json_says_how_many_were_planted_and_killed(mutants, package, monkeypatch, capsys):
    monkeypatch.setattr(mutants, "read_list", lambda: [fault(mutants), fault(mutants, "4 * x", test="nothing")])
    monkeypatch.setattr(mutants, "copied", lambda folder: package)
    assert mutants.main(["--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {"planted": 2, "killed": 1, "survived": ["2 * x to 4 * x"]}
    assert mutants.main(["--only", "no such name"]) == 2
