"""Judge every model with its default settings on real logs: NDCG@10 by log, against EASE and popularity.

    python benchmarks/defaults.py --quick --json      four small logs, one seed, a minute for a training
    python benchmarks/defaults.py                     twelve logs, three seeds: hours on two cores

What is trained is the ladder of `fit`, mixtures and choice too: see ladder.py. The logs are prepared by
default_sets.py, into `--sets` when it is given, so that a second run finds them; finished logs are kept in `--lines`
when it is given. `best_of_ladder_over_best_baseline` is of what `fit` would choose on validation, over the closed form
that is best on the test.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import common
import default_sets
import ladder
import tune_defaults

QUICK = ("instruments-5core", "ml-100k", "kuairand", "instruments-2018")


LIMIT = 60.0
"""Seconds for a training in the quick form, about what a budget of ten minutes leaves for one on two cores."""


def table(lines: list[ladder.Line]) -> dict[str, dict[str, float]]:
    """NDCG@10 on the test by log and model, means over seeds; the mixture is the one that `fit` would keep."""
    found: dict[str, dict[str, list[float]]] = {}
    for line in lines:
        row = found.setdefault(line["set"], {})
        tests = {name: one["test"] for name, one in line["models"].items() if " + " not in name}
        if kept := ladder.best_mixture(line):
            tests["mixture"] = line["models"][kept]["test"]
        for name, value in tests.items():
            row.setdefault(name, []).append(value)
    return {name: {model: sum(one) / len(one) for model, one in row.items()} for name, row in found.items()}


def main() -> None:
    """Climb the ladder on all logs."""
    made = common.parser(__doc__)
    made.add_argument("--sets", type=Path, help="folder of the prepared logs; made where they are not there")
    made.add_argument("--lines", type=Path, help="file of finished logs and seeds, from which a second call goes on")
    made.add_argument("--names", default="", help="names of logs, with commas; default: all, or four small ones")
    made.add_argument("--seeds", type=int, default=0)
    made.add_argument("--limit", type=float, help="seconds for a training; default: none, quick: 60")
    made.add_argument("--device", default="cpu")
    options = common.parse(made)
    names = options.names.split(",") if options.names else list(QUICK if options.quick else default_sets.LOGS)
    seeds = options.seeds or (1 if options.quick else 3)
    limit = options.limit if options.limit is not None else LIMIT if options.quick else 0.0
    lines = tune_defaults.read(options.lines) if options.lines else []
    done = {(line["set"], line["seed"]) for line in lines}
    with tempfile.TemporaryDirectory() as temporary:
        for name in names:
            folder = (options.sets or Path(temporary)) / name
            if not folder.is_dir():
                default_sets.prepare(name, folder)
            for seed in range(seeds):
                if (name, seed) in done:
                    continue
                lines.append(ladder.climb(folder, seed, options.device, limit=limit))
                if options.lines:
                    with options.lines.open("a") as file:
                        file.write(json.dumps(lines[-1]) + "\n")
    lines = [line for line in lines if line["set"] in names and line["seed"] < seeds]
    by_set = table(lines)
    behind = [
        name
        for name, row in by_set.items()
        if name not in default_sets.CLOCKLESS and row.get("sasrec", 0.0) < row.get("two_tower", 0.0)
    ]
    figures = ladder.summary(lines, {}) | {"sasrec_behind_two_tower": behind, "ndcg@10": by_set, "raw": lines}
    common.finish("defaults", options, settings={"logs": names, "seeds": seeds, "limit": limit}, figures=figures)


if __name__ == "__main__":
    main()
