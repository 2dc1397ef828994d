"""What a user waits for before anything is done, `import twotower` and `--help`, and the lines of the first job.

Seconds of processor time of whole processes, and their least wall time; a bare Python stands beside them, and they
take turns. Lines are those with code, imports counted, of the first Python block of the README, and of the pages for
those who come from other libraries, where the same job stands in both forms.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import common

PROCESSES = {
    "python": ("-c", "pass"),
    "import twotower": ("-c", "import twotower"),
    "twotower --help": ("-m", "twotower", "--help"),
    "twotower train --help": ("-m", "twotower", "train", "--help"),
}
PAGES = ("from-recbole", "from-rectools", "from-tfrs")


def run(words: tuple[str, ...]) -> tuple[float, float]:
    """Processor and wall seconds of one process."""
    before, start = common.cpu_seconds(), time.perf_counter()
    subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, check=True)
    return common.cpu_seconds() - before, time.perf_counter() - start


def lines(text: str) -> list[tuple[str, int]]:
    """Title and lines of code of each Python block of a page."""
    blocks = re.findall(r'```python(?: title="([^"]*)")?\n(.*?)```', text, re.DOTALL)
    return [(title, len([line for line in code.splitlines() if line.strip(" #")])) for title, code in blocks]


def read(*parts: str) -> str:
    return Path(common.ROOT, *parts).read_text(encoding="utf-8")


def main() -> None:
    options = common.parse(common.parser(__doc__))
    rounds = 5 if options.quick else 30
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in PROCESSES}
    for name in PROCESSES:
        run(PROCESSES[name])  # compiles what was never imported
    for _ in range(rounds):
        for name, words in PROCESSES.items():
            measured[name].append(run(words))
    seconds = {
        name: {
            "cpu_median": round(statistics.median(cpu for cpu, _ in found), 3),
            "cpu_most": round(max(cpu for cpu, _ in found), 3),
            "wall_least": round(min(wall for _, wall in found), 3),
        }
        for name, found in measured.items()
    }
    code = {"README": lines(read("README.md"))[0][1]}
    for page in PAGES:
        code |= {f"{page}: {title}": number for title, number in lines(read("docs", "how-to", f"{page}.md"))[:2]}
    common.finish("startup", options, settings={"rounds": rounds}, figures={"seconds": seconds, "lines": code})


if __name__ == "__main__":
    main()
