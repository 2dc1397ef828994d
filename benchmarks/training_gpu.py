"""SASRec with full softmax on MovieLens-1M, GPU: seconds an epoch, seconds of evaluation, quality over seeds.

Width 64, dropout 0.2, batch 256 and length 200 are given; with ``--grid`` learning rate, schedule and decay are chosen
on validation NDCG@10 of seed 0, else they are the recipe's. They then run on other seeds.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch

import common
import movielens
from twotower.data.dataset import Dataset
from twotower.data.examples import SequenceRows
from twotower.data.splitters import split_log
from twotower.evaluation.protocol import Protocol
from twotower.evaluation.run import evaluate
from twotower.experiment.learn import new_model
from twotower.experiment.recipes import recipe
from twotower.experiment.run import Run
from twotower.experiment.train import train
from twotower.training.against_all import AgainstAll
from twotower.training.loop import fit

GRID = [
    [f"training.learning_rate={rate}", f"training.schedule={schedule}", f"training.weight_decay={decay}"]
    for rate in (1e-3, 2e-3)
    for schedule in ("constant", "cosine")
    for decay in (0.0, 0.1)
]


def train_once(run: Run, dataset: Dataset) -> dict[str, float]:
    """Train one run and judge it on the test; its best validation metric beside."""
    with common.Clock() as clock:
        trained = train(run, dataset=dataset)
    judged = [record for record in trained.records if run.training.metric in record.metrics]
    best = max(judged, key=lambda record: record.metrics[run.training.metric])
    return {
        "validation_ndcg@10": best.metrics["ndcg@10"],
        "validation_hit_rate@10": best.metrics["hit_rate@10"],
        "best_epoch": best.epoch,
        "epochs": len(trained.records),
        "wall_seconds": clock.wall,
        **{f"test_{name}": trained.test.metrics[name] for name in ("hit_rate@10", "ndcg@10", "mrr@10")},
    }


def timings(run: Run, dataset: Dataset, epochs: int) -> dict[str, float]:
    """Median seconds of an epoch and of a full-catalogue evaluation, nothing else on the GPU."""
    split = split_log(dataset.log, "leave-one-out")
    model = new_model(run, dataset)
    rows = SequenceRows(dataset, split.train, history_length=model.history_length, item_features=False)
    config = replace(run.training, epochs=1, evaluate_every=0, patience=0, refit=False)
    fit(model, rows, AgainstAll(dataset), config)
    epoch_seconds, evaluation_seconds = [], []
    for _ in range(epochs):
        with common.Clock() as clock:
            fit(model, rows, AgainstAll(dataset), config)
        epoch_seconds.append(clock.wall)
        with common.Clock() as clock:
            evaluate(model, dataset, split.test, Protocol(ks=(10, 20, 50)))
        evaluation_seconds.append(clock.wall)
    return {
        "epoch_seconds": statistics.median(epoch_seconds),
        "evaluation_seconds": statistics.median(evaluation_seconds),
        "evaluation_users": len(split.test.users()),
        "positions_an_epoch": int(rows.lengths.sum()),
    }


def several(jobs: list[tuple[list[str], int]], data: Path) -> list[dict[str, float]]:
    """Train several runs at once, one process each."""
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "--data", str(data), "--one", json.dumps([settings, seed])],
            stdout=subprocess.PIPE,
            text=True,
        )
        for settings, seed in jobs
    ]
    return [json.loads(process.communicate()[0].splitlines()[-1]) for process in processes]


def mean_and_margin(values: list[float]) -> tuple[float, float]:
    """The mean over seeds, and half of its 95 % interval by Student's t."""
    t = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776}[len(values)]
    return statistics.mean(values), t * statistics.stdev(values) / len(values) ** 0.5


def main() -> None:
    """Measure and report."""
    made = common.parser(__doc__)
    made.add_argument("--data", type=Path, help="prepared MovieLens-1M; default: from the shared copy")
    made.add_argument("--grid", action="store_true", help="choose settings on validation data first")
    made.add_argument("--seeds", type=int, default=5, help="trainings; 0 measures the times alone")
    made.add_argument("--one", help=argparse_hidden)
    options = common.parse(made)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dataset, _ = movielens.load("ml-1m", options.data)
    dataset = dataset.to(device)
    if options.one:
        settings, seed = json.loads(options.one)
        run = recipe("sasrec_ml_1m").with_settings([*settings, f"training.seed={seed}"])
        print(json.dumps(train_once(run, dataset)))
        return
    base = recipe("sasrec_ml_1m")
    figures: dict[str, object] = timings(base, dataset, 3 if options.quick else 15)
    plain = base.with_settings(["model.feed_forward=1", "model.attention_dropout=0.0"])
    figures["plain_epoch_seconds"] = timings(plain, dataset, 3 if options.quick else 15)["epoch_seconds"]
    if not options.quick and options.seeds:
        chosen: list[str] = []
        if options.grid:
            tried = several([(settings, 0) for settings in GRID], options.data)
            chosen = GRID[max(range(len(GRID)), key=lambda place: tried[place]["validation_ndcg@10"])]
            figures["grid"] = [{"settings": settings, **found} for settings, found in zip(GRID, tried, strict=True)]
        figures["chosen"] = chosen
        seeds = range(1, options.seeds + 1)
        runs = several([(chosen, seed) for seed in seeds], options.data)
        figures["seeds"] = runs
        for name in ("validation_ndcg@10", "test_hit_rate@10", "test_ndcg@10"):
            mean, margin = mean_and_margin([found[name] for found in runs])
            figures |= {name: mean, f"{name}_margin": margin}
    common.finish("training_gpu", options, settings={"run": base.to_toml(), "data": dataset.name}, figures=figures)


argparse_hidden = "used by the script itself: one run in this process"


if __name__ == "__main__":
    main()
