"""Judge every model with its default settings on real logs: NDCG@10 by log, against EASE and popularity.

    python benchmarks/defaults.py --quick --json      four small logs, one seed
    python benchmarks/defaults.py                     twelve logs, three seeds: hours on two cores

The logs are prepared by default_sets.py, into `--sets` when it is given, so that a second run finds them.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import common
import default_sets
import tune_defaults

BASELINES = ("popularity", "item_cosine", "item_lists", "ease")
NEURAL = ("two_tower", "sasrec")
QUICK = ("instruments-5core", "ml-100k", "kuairand", "instruments-2018")


def geometric_mean(values: list[float]) -> float | None:
    """Of positive numbers; None of none."""
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def summary(by_set: dict[str, dict[str, float]]) -> dict[str, Any]:
    """The ratios over sets; a model that did not answer on a set (EASE, too large) leaves that set out of its ratio."""
    over_ease = [row["two_tower"] / row["ease"] for row in by_set.values() if "ease" in row]
    ladder = [max(row.values()) / max(row[name] for name in BASELINES if name in row) for row in by_set.values()]
    behind = [
        name for name, row in by_set.items() if any(row[model] < row["popularity"] for model in NEURAL if model in row)
    ]
    clocked = {name: row for name, row in by_set.items() if name not in default_sets.CLOCKLESS}
    return {
        "two_tower_over_ease": geometric_mean(over_ease),
        "best_of_ladder_over_best_baseline": geometric_mean(ladder),
        "below_popularity": behind,
        "sasrec_behind_two_tower": [name for name, row in clocked.items() if row["sasrec"] < row["two_tower"]],
    }


def main() -> None:
    """Train all models on all logs."""
    made = common.parser(__doc__)
    made.add_argument("--sets", type=Path, help="folder of the prepared logs; made where they are not there")
    made.add_argument("--names", default="", help="names of logs, with commas; default: all, or four small ones")
    made.add_argument("--seeds", type=int, default=0)
    made.add_argument("--device", default="cpu")
    options = common.parse(made)
    names = options.names.split(",") if options.names else list(QUICK if options.quick else default_sets.LOGS)
    seeds = options.seeds or (1 if options.quick else 3)
    raw: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in names:
            folder = (options.sets or Path(temporary)) / name
            if not folder.is_dir():
                default_sets.prepare(name, folder)
            for model in (*BASELINES, *NEURAL):
                for seed in range(seeds if model in NEURAL else 1):
                    raw.append(tune_defaults.measure(folder, model, "default", {}, seed, options.device))
    by_set: dict[str, dict[str, float]] = {name: {} for name in names}
    for name in names:
        for model in (*BASELINES, *NEURAL):
            tests = [line["test"] for line in raw if line["set"] == name and line["model"] == model and "test" in line]
            if tests:
                by_set[name][model] = sum(tests) / len(tests)
    figures = summary(by_set) | {"ndcg@10": by_set, "raw": raw}
    common.finish("defaults", options, settings={"logs": names, "seeds": seeds}, figures=figures)


if __name__ == "__main__":
    main()
