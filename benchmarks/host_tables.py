"""What a table on the host saves where the catalogue is large: time of a step and memory, dense against host.

A two-tower of width 64 on a made-up log, in-batch softmax, batches of 1,024 events with histories of at most 20 items;
the dense table under Adam, the host table under row-wise Adagrad. Every cell is a process of its own, on the CPU: the
work of a step and the memory, and not what a transfer to a device costs. ``--quick``: 10,000 items alone.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import common
from twotower.core.schema import Schema
from twotower.data.dataset import Dataset
from twotower.data.examples import EventRows
from twotower.data.log import Log
from twotower.losses.sampled_softmax import SampledSoftmax
from twotower.models.registry import build_model
from twotower.sampling.counts import ItemCounts
from twotower.sampling.in_batch import InBatch
from twotower.sampling.known import Positives
from twotower.training.against_samples import AgainstSamples
from twotower.training.config import Training
from twotower.training.optimize import build_optimizer

SIZES = (10_000, 100_000, 1_000_000)
CELLS = {"dense": {}, "host": {}, "host, bfloat16 state": {"row_state": "bfloat16"}}
STEPS, BATCH, USERS, EVENTS = 20, 1024, 5_000, 20


def cell(kind: str, items: int) -> dict[str, float]:
    """Train a few steps; returns milliseconds of processor time a step, and MiB at the peak above those before."""
    generator = torch.Generator().manual_seed(0)
    drawn = (torch.rand(USERS * EVENTS, generator=generator) ** 3 * items).long() + 2
    offsets = torch.cat([torch.zeros(3, dtype=torch.int64), torch.arange(1, USERS + 1) * EVENTS])
    dataset = Dataset(Schema(USERS + 2, items + 2, (), (), has_times=False), Log(offsets, drawn), {}, {}, {})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    table = "dense" if kind == "dense" else "host"
    settings = {"dim": 64, "field_dim": 64, "hidden": [], "history_length": 20, "table": table}
    model = build_model("two_tower", dataset.schema, settings).train()
    config = Training(optimizer="adam", learning_rate=0.01, **CELLS[kind])
    optimizer = build_optimizer(model, config)
    rows = EventRows(dataset, dataset.log, history_length=20, item_features=True)
    sampler = InBatch(ItemCounts(dataset.log.items, dataset.schema.num_items))
    known = Positives(dataset.log.offsets, dataset.log.items, dataset.schema.num_items)
    objective = AgainstSamples(dataset, sampler, SampledSoftmax(), known)

    def step(place: int) -> None:
        batch = rows.cut(torch.arange(place * BATCH, (place + 1) * BATCH) % len(rows))
        optimizer.zero_grad()
        objective(model, batch).backward()
        optimizer.step()

    for place in range(3):
        step(place)
    with common.Clock() as clock:
        for place in range(STEPS):
            step(3 + place)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"cpu_ms": round(1e3 * clock.cpu / STEPS, 1), "mib": round((peak - before) / 1024, 0)}


def main() -> int:
    """Print and keep the table."""
    made = common.parser(__doc__)
    made.add_argument("--cell", nargs=2, metavar=("KIND", "ITEMS"), help="one cell, in this process")
    options = common.parse(made)
    if options.cell:
        print(json.dumps(cell(options.cell[0], int(options.cell[1]))))
        return 0
    found: dict[str, Any] = {}
    for items in SIZES[:1] if options.quick else SIZES:
        for kind in CELLS:
            words = [sys.executable, str(Path(__file__)), "--cell", kind, str(items), "--threads", str(options.threads)]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            found[f"{kind}, {items}"] = one = json.loads(done.stdout)
            if not options.json:
                print(f"{items:>9,} {kind:22} {one['cpu_ms']:8.1f} ms {one['mib']:8.0f} MiB")
    common.finish(
        "host_tables",
        options,
        settings={"batch": BATCH, "steps": STEPS, "width": 64, "history": 20},
        figures={"cells": found},
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
