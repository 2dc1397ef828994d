"""Diagnosis: seconds and memory against the number of vectors, and against a plain scikit-learn script.

Each size runs in a fresh process on vectors mapped from disk, so that its peak memory is its own. The plain script
(`diagnosis_plain.py`) computes the same figures as its reader would: all cosines at once, scikit-learn for the rest.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import common

SIZES = (255, 10_000, 100_000, 1_000_000)
QUICK_SIZES = (255, 2_000)
DIM = 128
SHARED = (
    *("mean_cosine", "median_cosine", "std_cosine", "min_cosine", "max_cosine", "p10_cosine", "p25_cosine"),
    *("p75_cosine", "p90_cosine", "effective_dimensions", "dimensions_for_90_percent", "participation_ratio"),
    *("rankme", "stable_rank", "hubness", "anti_hubs", "top20_min", "top20_max", "improvement_over_random"),
    *("uniformity", "intrinsic_dimension"),
)
"""Figures that ours and the plain script must agree on; k-means draws its own seeds, so its scores only come close."""


def write_vectors(path: Path, rows: int) -> None:
    """A few hundred groups on a power-law spectrum, in chunks."""
    draw = np.random.default_rng(0)
    scale = np.arange(1, DIM + 1, dtype=np.float32) ** -0.3
    centres = draw.normal(size=(300, DIM)).astype(np.float32)
    target = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, DIM))
    for start in range(0, rows, 50_000):
        part = target[start : start + 50_000]
        part[:] = (centres[draw.integers(300, size=len(part))] + draw.normal(size=part.shape)) * scale
    target.flush()


def measure(program: str, path: Path, threads: int) -> dict[str, Any]:
    """Seconds, peak memory and figures of one program on one file, in its own process."""
    command = [sys.executable, str(Path(__file__).with_name("diagnosis_once.py")), program, str(path), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{program} on {path.name} ended with {done.returncode}:\n{done.stderr[-2_000:]}")
    return json.loads(done.stdout)


def main() -> None:
    made = common.parser(__doc__)
    made.add_argument("--sizes", type=int, nargs="*", help="numbers of vectors to measure instead")
    made.add_argument("--plain-rows", type=int, help="vectors in the comparison (default 10,000; quick 2,000)")
    options = common.parse(made)
    sizes = options.sizes or (QUICK_SIZES if options.quick else SIZES)
    plain_rows = options.plain_rows or (2_000 if options.quick else 10_000)
    scale: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.npy"
        for rows in sizes:
            write_vectors(path, rows)
            found = measure("ours", path, options.threads)
            scale.append(
                {"vectors": rows, **{name: found[name] for name in ("wall_seconds", "cpu_seconds", "peak_mib")}}
            )
            print(json.dumps(scale[-1]), file=sys.stderr)
        write_vectors(path, plain_rows)
        repeats = 3 if plain_rows <= 10_000 else 1
        runs = {
            program: [measure(program, path, options.threads) for _ in range(repeats)] for program in ("ours", "plain")
        }
    ours, plain = (runs[program][0]["figures"] for program in ("ours", "plain"))
    apart = {name: abs(ours[name] - plain[name]) / max(1.0, abs(plain[name])) for name in SHARED}
    best = {program: min(run["cpu_seconds"] for run in runs[program]) for program in runs}
    common.finish(
        "diagnosis",
        options,
        settings={"dimensions": DIM, "sizes": list(sizes), "plain_rows": plain_rows, "repeats": repeats},
        figures={
            "scale": scale,
            "speedup_over_sklearn": best["plain"] / best["ours"],
            "speedup_over_sklearn_wall": min(run["wall_seconds"] for run in runs["plain"])
            / min(run["wall_seconds"] for run in runs["ours"]),
            "compared": {
                program: [{name: run[name] for name in ("wall_seconds", "cpu_seconds", "peak_mib")} for run in found]
                for program, found in runs.items()
            },
            "largest_difference": max(apart.values()),
            "differences": apart,
        },
    )


if __name__ == "__main__":
    main()
