"""Plant faults one at a time in a copy of the package, and say which of them the tests see.

``mutants.toml`` lists them: a file of the package, a text that stands in it once, what stands there instead, and the
tests that should fail. The copy holds src, tests, docs and pyproject.toml; the checkout is never changed. First the
tests of all chosen faults run on the copy as it is: only if they pass does a failure mean anything.

    python benchmarks/mutants.py                 every fault; ends with 1 when fewer than 95 % are killed
    python benchmarks/mutants.py --quick --json  a dozen, as {"planted": n, "killed": m, "survived": [names]}
    python benchmarks/mutants.py --only coarse   those whose name holds a text
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIST = Path(__file__).with_name("mutants.toml")
WANTED = 0.95
"""Share of faults that must be killed."""
SECONDS = 600
"""After which a test run is stopped; a fault that makes the tests hang is seen."""
PASSED, FAILED = 0, 1
"""Exit statuses of pytest that say something; all others, such as that of no test found, are errors here."""


class MutantError(Exception):
    """The list, or a run of the tests, is not what it should be: neither a kill nor a survivor."""


@dataclass(frozen=True)
class Mutant:
    """One fault."""

    name: str
    file: str
    """Below src/twotower."""
    old: str
    new: str
    tests: tuple[str, ...]
    """Files or single tests, as pytest takes them."""
    quick: bool = False
    """Whether it is one of the dozen."""

    def planted_in(self, text: str) -> str:
        """The file's text with the fault.

        Raises:
            MutantError: if the old text does not stand in it exactly once, or nothing would change.
        """
        if self.old == self.new or text.count(self.old) != 1:
            raise MutantError(
                f"{self.name}: src/twotower/{self.file} holds the old text {text.count(self.old)} times, once is "
                "wanted; mend the fault's line in mutants.toml"
            )
        return text.replace(self.old, self.new)


def read_list(path: Path = LIST) -> list[Mutant]:
    """The planted faults.

    Raises:
        MutantError: if a name comes twice, or a fault has no test or an unknown key.
    """
    entries = tomllib.loads(path.read_text(encoding="utf-8"))["mutants"]
    try:
        mutants = [Mutant(**{**entry, "tests": tuple(entry["tests"])}) for entry in entries]
    except (TypeError, KeyError) as error:
        raise MutantError(f"{path.name}: {error}") from None
    if len({mutant.name for mutant in mutants}) < len(mutants) or not all(mutant.tests for mutant in mutants):
        raise MutantError(f"{path.name}: names must differ, and each fault needs a test")
    return mutants


def copied(folder: Path, root: Path = ROOT) -> Path:
    """A copy of what the tests need, in ``folder``."""
    leave_out = shutil.ignore_patterns("__pycache__", "*.pyc")
    for part in ("src", "tests", "docs"):
        shutil.copytree(root / part, folder / part, ignore=leave_out)
    shutil.copy(root / "pyproject.toml", folder)
    return folder


def run_tests(folder: Path, tests: list[str]) -> int | None:
    """pytest's exit status for these tests in the copy, with the copy's package; None: it took too long."""
    environment = os.environ | {"PYTHONPATH": str(folder / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.setdefault("OMP_NUM_THREADS", "1")
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-m", "not gpu and not browser", *tests]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return None
    # a file of tests that cannot be read is no failed test, though with -x the exit status is the same
    if done.returncode not in (PASSED, FAILED) or "ERROR collecting" in done.stdout:
        raise MutantError(f"pytest {' '.join(tests)}: exit status {done.returncode}\n{done.stdout[-2000:]}")
    return done.returncode


def is_killed(mutant: Mutant, folder: Path) -> bool:
    """Whether a test fails, or hangs, while the fault stands in the copy.

    Raises:
        MutantError: if the fault cannot be planted, or its tests cannot be run with it.
    """
    path = folder / "src" / "twotower" / mutant.file
    if not path.is_file():
        raise MutantError(f"{mutant.name}: there is no src/twotower/{mutant.file}")
    whole = path.read_text(encoding="utf-8")
    path.write_text(mutant.planted_in(whole), encoding="utf-8")
    try:
        return run_tests(folder, list(mutant.tests)) != PASSED
    except MutantError as error:
        raise MutantError(f"{mutant.name}: {error}") from None
    finally:
        path.write_text(whole, encoding="utf-8")


def survivors(mutants: list[Mutant], folder: Path, *, told: bool) -> list[str]:
    """Names of the faults that no test saw; ``told`` prints a line for each fault.

    Raises:
        MutantError: if the tests fail without a fault.
    """
    for mutant in mutants:  # before the first test runs: a list that is out of date is found at once
        path = folder / "src" / "twotower" / mutant.file
        mutant.planted_in(path.read_text(encoding="utf-8") if path.is_file() else "")
    if run_tests(folder, sorted({test for mutant in mutants for test in mutant.tests})) != PASSED:
        raise MutantError("the tests fail without any fault: mend that first")
    left = []
    for mutant in mutants:
        killed = is_killed(mutant, folder)
        if not killed:
            left.append(mutant.name)
        if told:
            print(f"{'killed' if killed else 'SURVIVED':9} {mutant.name}", flush=True)
    return left


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 0 enough killed, 1 too few, 2 an error."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a dozen of the faults")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--only", default="", metavar="TEXT", help="faults whose name holds this text")
    options = parser.parse_args(arguments)
    try:
        mutants = [m for m in read_list() if options.only in m.name and (m.quick or not options.quick)]
        if not mutants:
            raise MutantError(f"no fault's name holds '{options.only}'")
        with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
            left = survivors(mutants, copied(Path(folder)), told=not options.json)
    except MutantError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    killed = len(mutants) - len(left)
    if options.json:
        print(json.dumps({"planted": len(mutants), "killed": killed, "survived": left}))
    else:
        print(f"{killed} of {len(mutants)} planted faults killed")
    return 0 if killed >= WANTED * len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main())
