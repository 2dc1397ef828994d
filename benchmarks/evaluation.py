"""Full-catalogue evaluation: seconds on MovieLens-1M, and seconds and memory against users × items.

``--device cuda`` times MovieLens-1M on a GPU. The sizes are measured each in a process of its own, on random vectors of
width 64 with 20 seen items a user; ``scores_mib`` is what all scores at once would take.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

import torch

import common
import movielens
from twotower.core.schema import Schema
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.data.split import Targets
from twotower.evaluation.protocol import Protocol
from twotower.evaluation.run import evaluate
from twotower.models.registry import build_model

QUICK_SIZES = ((1_000, 5_000), (1_000, 50_000), (10_000, 5_000))
SIZES = ((5_000, 5_000), (5_000, 50_000), (50_000, 5_000), (5_000, 200_000), (50_000, 50_000))
SEEN = 20


def last_out(log: Log) -> Targets:
    """Each user's last event is to be found."""
    last = torch.zeros(log.num_events, dtype=torch.bool, device=log.items.device)
    last[log.offsets[1:][log.lengths > 1] - 1] = True
    return Targets(log.select(~last), log.select(last))


def on_movielens(options: argparse.Namespace) -> dict[str, Any]:
    """SASRec (2 layers, width 64, 200 positions) and, for the scoring alone, random vectors of the same width."""
    dataset, real = movielens.load("ml-100k" if options.quick else "ml-1m")
    dataset = dataset.to(options.device)
    targets = last_out(dataset.log)
    models = {
        "sasrec": build_model("sasrec", dataset.schema, {"dim": 64, "layers": 2, "history_length": 200}),
        "scoring": build_model("random", dataset.schema, {"dim": 64}),
    }
    figures: dict[str, Any] = {"data": dataset.name, "real_data": real, "users": len(targets.users())}
    for name, model in models.items():
        model.to(options.device)
        for asked, train in (("", None), ("_with_lists", targets.history)):
            cpu, wall = [], []
            for _ in range(options.repeats + 1):
                with common.Clock() as clock:
                    evaluate(model, dataset, targets, Protocol(ks=(10, 100)), train=train)
                cpu.append(clock.cpu)
                wall.append(clock.wall)
            figures[f"{name}{asked}_cpu_seconds"] = min(cpu[1:])
            figures[f"{name}{asked}_wall_seconds"] = min(wall[1:])
            figures[f"{name}{asked}_wall_seconds_all"] = wall
    return figures


def one_size(users: int, items: int) -> dict[str, Any]:
    """Seconds and peak memory of one evaluation; memory also before it, with data and model in place."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.full((users + 2,), SEEN + 1)
    lengths[:2] = 0
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    log = Log(offsets, torch.randint(2, items + 2, (int(offsets[-1]),), generator=generator))
    schema = Schema(users + 2, items + 2, has_times=False)
    model = build_model("random", schema, {"dim": 64})
    dataset, targets = Dataset(schema, log, {}, {}, {}), last_out(log)
    before = common.peak_mib()
    with common.Clock() as clock:
        evaluate(model, dataset, targets)
    return {
        "users": users,
        "items": items,
        "cpu_seconds": clock.cpu,
        "scores_per_cpu_second": users * items / clock.cpu,
        "mib_before": before,
        "mib_peak": common.peak_mib(),
        "scores_mib": users * items * 4 / 2**20,
    }


def main() -> None:
    made = common.parser(__doc__)
    made.add_argument("--device", default="cpu", help="cpu or cuda, for the MovieLens part (default cpu)")
    made.add_argument("--repeats", type=int, default=3, help="timed repeats, after one that is not (default 3)")
    made.add_argument("--one", type=int, nargs=2, metavar=("USERS", "ITEMS"), help=argparse.SUPPRESS)
    options = common.parse(made)
    if options.one:
        print(json.dumps(one_size(*options.one)))
        return
    figures = on_movielens(options)
    if options.device == "cpu":
        figures["sizes"] = []
        for users, items in QUICK_SIZES if options.quick else SIZES:
            command = [sys.executable, __file__, "--one", str(users), str(items), "--threads", str(options.threads)]
            figures["sizes"].append(
                json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
            )
    name = "evaluation" if options.device == "cpu" else f"evaluation_{options.device}"
    common.finish(name, options, settings={"device": options.device, "repeats": options.repeats}, figures=figures)


if __name__ == "__main__":
    main()
