"""Feeds seeded nonsense to the command line: logs, tables of items, specs, run files and files for `diagnose`.

Then it changes single bytes in every file of a bundle, a prepared data set and a stopped training (`fuzz_flips`).

Allowed are: exit status 0, for a log with read + malformed + blank + header = lines of the file; 2 with one error line
below 500 characters; 3 from `diagnose` (collapsed). Whatever else comes back is a finding. Each input is drawn from
the seed and its own number, so that ``--only NUMBER --keep FOLDER`` makes one again::

    python benchmarks/fuzz.py --inputs 10000 --seed 0 --json
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import logging
import math
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np

import common
import fuzz_flips
import fuzz_inputs
from twotower.cli.main import main as twotower
from twotower.data.prepare.prepare import prepare
from twotower.data.prepare.spec import Spec

SECONDS = 60
"""After which an input is a finding: nothing that is as small may take as long, but a run of thousands of epochs."""
TOO_SLOW = f"not done after {SECONDS} seconds"

MEMORY = 12 << 30
"""Bytes of address space: an input that takes all memory must fail here, not take the machine along."""
LINE = 500


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    errors: str
    trace: str = ""


class Finding(NamedTuple):
    """An input that was neither served nor refused as it should be."""

    number: int
    kind: str
    what: str
    command: str


def ended(words: list[str]) -> Ended:
    """Run the command in this process."""
    out, errors = io.StringIO(), io.StringIO()
    status, trace = 0, ""
    told = logging.StreamHandler(errors)
    logging.getLogger("twotower").addHandler(told)
    signal.signal(signal.SIGALRM, _too_slow)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            twotower(words)
    except SystemExit as stop:
        status = int(stop.code or 0)
    except BaseException:
        status, trace = 1, traceback.format_exc()
    finally:
        signal.alarm(0)
        logging.getLogger("twotower").removeHandler(told)
    return Ended(status, out.getvalue(), errors.getvalue(), trace)


def _too_slow(*_: object) -> None:
    raise TimeoutError(TOO_SLOW)


def wrong(kind: str, done: Ended, lines: int | None) -> str:
    """What is wrong with how a command ended; empty: nothing."""
    if done.trace:
        frames = [line.strip() for line in done.trace.splitlines() if line.strip().startswith("File")]
        return f"{done.trace.strip().splitlines()[-1][:300]} at {' < '.join(frames[-3:])}"
    if "Traceback" in done.errors:
        return f"a traceback on standard error: {done.errors[-300:]}"
    if kind == "run" and TOO_SLOW in done.errors and re.search(r"epoch \d+/\d{4,}", done.errors):
        return ""  # a run that asks for thousands of epochs, and is being trained
    if done.status not in ((0, 2, 3) if kind == "diagnose" else (0, 2)):
        return f"exit status {done.status}: {done.errors[-300:]}"
    if any(len(line) > LINE for line in done.errors.splitlines()):
        return f"a line of {max(map(len, done.errors.splitlines()))} characters: {done.errors[:200]}"
    if done.status == 2:
        said = [line for line in done.errors.splitlines() if line.startswith("error: ")]
        if len(said) != 1 or not done.errors.rstrip().endswith(said[0].rstrip()):
            return f"not one error line: {done.errors[:300]}"
    if done.status == 0 and lines is not None:
        counts = json.loads(done.out)["rows"]["log"]["lines"]
        if sum(counts[part] for part in ("read", "malformed", "blank", "header")) != lines:
            return f"the file has {lines} lines, counted are {counts}"
    return ""


def one(number: int, seed: int, folder: Path, prepared: Path) -> tuple[str, list[str], int | None]:
    """Write input ``number`` into ``folder``; returns its kind, the command, and the lines of a log."""
    random = Random(f"{seed}:{number}")
    kind = random.choice(tuple(fuzz_inputs.KINDS))
    words, lines = fuzz_inputs.KINDS[kind](random, folder, prepared)
    return kind, words, lines


@contextlib.contextmanager
def prepared_data() -> Iterator[Path]:
    """A small prepared data set for run files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "log.csv").write_bytes(fuzz_inputs.log_csv(Random(0)))
        spec = Spec.from_dict(
            {"name": "small", "interactions": {"path": "log.csv", "user": "user", "item": "item", "time": "time"}},
            folder=folder,
        )
        yield prepare(spec, folder / "prepared")


def run(
    numbers: range,
    seed: int,
    keep: Path | None = None,
    progress: Callable[[str], None] | None = None,
    until: float = math.inf,
) -> tuple[list[Finding], dict[str, int]]:
    """Try the inputs of those numbers, until a time; returns what was found, and how often each kind ended how."""
    findings: list[Finding] = []
    ends: Counter[str] = Counter()
    with prepared_data() as prepared, tempfile.TemporaryDirectory() as work:
        for number in numbers:
            if time.monotonic() > until:
                break
            folder = Path(work) / str(number)
            folder.mkdir()
            kind, words, lines = one(number, seed, folder, prepared)
            with contextlib.chdir(folder):
                done = ended(words)
            ends[f"{kind}: {done.status}"] += 1
            if what := wrong(kind, done, lines):
                findings.append(Finding(number, kind, what, " ".join(words)))
                if progress is not None:
                    progress(f"{number} {kind}: {what}")
                if keep is not None:
                    shutil.copytree(folder, keep / str(number), dirs_exist_ok=True)
            shutil.rmtree(folder)
    return findings, dict(sorted(ends.items()))


def run_flips(
    count: int, seed: int, progress: Callable[[str], None] | None = None, until: float = math.inf
) -> tuple[list[Finding], dict[str, int]]:
    """Change ``count`` bytes in every stored file, until a time; returns what was found, and how each kind ended."""
    findings: list[Finding] = []
    ends: Counter[str] = Counter()
    with prepared_data() as prepared, tempfile.TemporaryDirectory() as work:
        targets = fuzz_flips.targets(prepared, Path(work))
        for place, target in enumerate(targets):
            now = time.monotonic()
            enough = now + (until - now) / (len(targets) - place)
            for command in target.commands[: 3 if target.kind != "checkpoint" else 0]:
                if (done := ended(command)).status not in (0, 3):
                    findings.append(Finding(-1, target.kind, f"refused as it is: {done.errors[:200]}", command[0]))
            for number, (name, command) in enumerate(fuzz_flips.flips(target, count, seed)):
                if time.monotonic() > enough:
                    break
                done = ended(command)
                ends[f"flip {target.kind}: {done.status}"] += 1
                what = wrong("diagnose" if command[0] == "diagnose" else "flip", done, None)
                if not what and done.status != 2 and target.must_refuse(name):
                    what = f"a changed byte of {name} was read without a word"
                if what:
                    findings.append(Finding(number, target.kind, f"{name}: {what}", " ".join(command)))
                    if progress is not None:
                        progress(f"{number} {target.kind}: {name}: {what}")
    return findings, dict(sorted(ends.items()))


def main() -> None:
    """Run as a script."""
    parser = common.parser(__doc__)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--flips", type=int, default=300, help="changed bytes in every stored file")
    parser.add_argument("--seconds", type=float, default=0, help="wall seconds for all; 0: as long as it takes")
    parser.add_argument("--only", type=int, help="one input by its number")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the inputs that were found")
    options = common.parse(parser)
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    count = 150 if options.quick else options.inputs
    numbers = range(options.first, options.first + count)
    if options.only is not None:
        numbers = range(options.only, options.only + 1)
    until = time.monotonic() + (options.seconds or math.inf)
    flipped = 3 if options.quick else options.flips
    with common.Clock() as clock, np.errstate(all="ignore"):
        told = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
        findings, ends = run(numbers, options.seed, options.keep, told, until)
        if options.only is None and flipped:
            more, changed = run_flips(flipped, options.seed, told, until)
            findings, ends = findings + more, ends | changed
    settings = {
        "seed": options.seed,
        "asked": len(numbers),
        "seconds": options.seconds,
        "first": numbers.start,
        "flips": flipped,
    }
    figures: dict[str, Any] = {
        "inputs": sum(count for end, count in ends.items() if not end.startswith("flip")),
        "flips": sum(count for end, count in ends.items() if end.startswith("flip")),
        "findings": len(findings),
        "ends": ends,
        "cpu_seconds": round(clock.cpu, 1),
        "found": [finding._asdict() for finding in findings[:50]],
    }
    common.finish(
        "fuzz",
        options,
        settings=settings,
        figures=figures,
    )


if __name__ == "__main__":
    main()
