"""SASRec with full softmax on MovieLens-1M on a CPU: positions a CPU second against a DataLoader form; evaluation.

Both forms train the same model (2 layers, width 64, length 200, dropout 0.2, batch 128) in turn, in one process. The
full run also trains with bfloat16 products and repeats everything.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import torch

import common
import loader
import movielens
from twotower.data.examples import SequenceRows
from twotower.data.splitters import split_log
from twotower.evaluation.protocol import Protocol
from twotower.evaluation.run import evaluate
from twotower.models.sequential import SASRec
from twotower.training.against_all import AgainstAll
from twotower.training.batching import random_batches
from twotower.training.config import Training
from twotower.training.loop import fit

BATCH, LENGTH = 128, 200


class FirstBatches:
    """Rows of the first batches of an epoch's random order, so that a part of an epoch can be timed."""

    def __init__(self, rows: SequenceRows, batches: int) -> None:
        order = list(random_batches(len(rows), BATCH, seed=0, epoch=0))
        self.rows, self.kept = rows, torch.cat(order[:batches])

    def __len__(self) -> int:
        return len(self.kept)

    def cut(self, rows: torch.Tensor):
        return self.rows.cut(self.kept[rows])


def import_seconds() -> dict[str, float]:
    """Wall seconds of importing the package, and torch alone, in fresh processes; the best of three."""
    best = {}
    for name in ("twotower", "torch"):
        times = []
        for _ in range(3):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", f"import {name}"], check=True)
            times.append(time.perf_counter() - start)
        best[name] = min(times)
    return best


def main() -> None:
    """Measure and report."""
    made = common.parser(__doc__)
    options = common.parse(made)
    dataset, real = movielens.load("ml-1m")
    split = split_log(dataset.log, "leave-one-out")
    rows = SequenceRows(dataset, split.train, history_length=LENGTH, item_features=False)
    batches, repeats = (6, 1) if options.quick else (len(rows) // BATCH + 1, 3)
    part = FirstBatches(rows, batches)
    positions = int(rows.lengths[part.kept].sum())

    def ours(precision: str) -> float:
        model = SASRec(dataset.schema, history_length=LENGTH)
        config = Training(epochs=1, batch_size=BATCH, optimizer="adam", evaluate_every=0, precision=precision)
        with common.Clock() as clock:
            fit(model, part, AgainstAll(dataset), config)
        return positions / clock.cpu

    def plain() -> float:
        model = SASRec(dataset.schema, history_length=LENGTH)
        with common.Clock() as clock:
            learnt = loader.train(model, split.train, batch_size=BATCH, length=LENGTH, steps=min(batches, 12))
        return learnt / clock.cpu

    ours("float32")  # warm-up
    forms = {"float32": [], "bfloat16": [], "loader": []}
    for _ in range(repeats):
        forms["loader"].append(plain())
        forms["float32"].append(ours("float32"))
        forms["bfloat16"].append(ours("bfloat16"))

    model = SASRec(dataset.schema, history_length=LENGTH)
    with common.Clock() as clock:
        evaluate(model, dataset, split.test, Protocol(ks=(10, 20, 50)))
    imports = import_seconds()
    speed = {name: statistics.median(values) for name, values in forms.items()}
    common.finish(
        "training",
        options,
        settings={"data": dataset.name, "real": real, "batch": BATCH, "length": LENGTH, "batches": batches},
        figures={
            "positions_per_cpu_second": speed["float32"],
            "positions_per_cpu_second_bfloat16": speed["bfloat16"],
            "loader_positions_per_cpu_second": speed["loader"],
            "loader_speedup": speed["float32"] / speed["loader"],
            "loader_speedup_bfloat16": speed["bfloat16"] / speed["loader"],
            "evaluation_cpu_seconds": clock.cpu,
            "evaluation_wall_seconds": clock.wall,
            "evaluation_users": len(split.test.users()),
            "import_seconds": imports["twotower"],
            "import_torch_seconds": imports["torch"],
            "repeats": forms,
        },
    )


if __name__ == "__main__":
    main()
