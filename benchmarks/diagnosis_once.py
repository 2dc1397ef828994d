"""One diagnosis in its own process, for `diagnosis.py`: ``diagnosis_once.py ours|plain VECTORS.npy THREADS``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

import common


def main() -> None:
    program, path, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    if program == "ours":
        from twotower.diagnosis import diagnose

        diagnose(torch.randn(300, 16, generator=torch.Generator().manual_seed(0)))  # the first call loads libraries
        with common.Clock() as clock:
            figures = diagnose(Path(path)).statistics
    else:
        from threadpoolctl import threadpool_limits

        from diagnosis_plain import plain

        plain(np.random.default_rng(0).normal(size=(300, 16)))
        with threadpool_limits(int(threads)), common.Clock() as clock:
            figures = plain(np.load(path))
    numbers = {name: float(value) for name, value in figures.items() if isinstance(value, int | float | np.number)}
    print(
        json.dumps(
            {
                "wall_seconds": clock.wall,
                "cpu_seconds": clock.cpu,
                "peak_mib": common.peak_mib(),
                "figures": numbers,
            }
        )
    )


if __name__ == "__main__":
    main()
