"""Ours beside other libraries on the same files: SASRec's training positions and evaluation, in CPU seconds.

Input: a folder with ``inter.csv`` (user_id, item_id, ts, pos, split; pos is the place of an event in the user's own
order), as any runner of peers makes it. Appends one JSON line of results, in the keys that the runner's own lines have:

    python benchmarks/peers.py --data DATA/ml-1m --out results.jsonl
    python benchmarks/peers.py --data DATA/ml-100k --out results.jsonl --tag quality --seed 1

A runner that gives ``--data DIR --out FILE`` to a further program can call the first line (``BENCH_OURS``); it reads
BENCH_THREADS where there is no ``--threads``. Speed: 2 layers, 2 heads, width 64, dropout 0.2, batch 128, full softmax,
length 200 for ml-1m and 50 for others. Quality: the recipe ``sasrec``, or the ``--set`` of `twotower train`.

Lines of one peer and ours, in the order in which they ran in turns, become ratios pair by pair:

    python benchmarks/peers.py --against results.jsonl

Positions of an epoch are counted as by peers: the sum over users of the lesser of training events − 1 and the length.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

import common
import twotower
from twotower.data.dataset import Dataset
from twotower.data.examples import SequenceRows
from twotower.data.prepare.prepare import prepare
from twotower.data.prepare.spec import Interactions, Source, Spec
from twotower.data.split import Split
from twotower.data.splitters import split_log
from twotower.evaluation.protocol import Protocol
from twotower.evaluation.run import evaluate
from twotower.experiment.learn import learn
from twotower.experiment.recipes import recipe
from twotower.experiment.run import ModelSection, Run
from twotower.models.base import Model
from twotower.training.callbacks import EpochRecord, Silent, StopTraining
from twotower.training.config import Training

LENGTHS = {"ml-1m": 200}
IMPORTS = "import twotower.data.prepare.prepare, twotower.experiment.learn, twotower.evaluation.run"
COLUMNS = {"R@10": "recall@10", "R@20": "recall@20", "R@50": "recall@50", "NDCG@10": "ndcg@10", "MRR@50": "mrr@50"}


class EpochClock(Silent):
    """CPU and wall seconds of each epoch, validations left out; stops training that has had its budget."""

    def __init__(self, budget: float = 0.0) -> None:
        self.budget = budget
        self.cpu: list[float] = []
        self.wall: list[float] = []

    def started(self, epochs: int, steps_per_epoch: int, step: int) -> None:
        """The first epoch begins."""
        self.steps = steps_per_epoch
        self.clock = common.Clock().__enter__()

    def stepped(self, step: int) -> None:
        """After an epoch's last step, note its time."""
        if step % self.steps == 0:
            self.clock.__exit__()
            self.cpu.append(self.clock.cpu)
            self.wall.append(self.clock.wall)

    def epoch_done(self, record: EpochRecord, model: Model) -> None:
        """The next epoch begins."""
        if self.budget and sum(self.cpu) >= self.budget:
            raise StopTraining("the budget of CPU seconds is used up")
        self.clock = common.Clock().__enter__()


def load(folder: Path) -> tuple[Dataset, Split]:
    """Prepare the log into a temporary folder, read it back, and split it."""
    log = Interactions(
        Source((str((folder / "inter.csv").resolve()),)), user="user_id", item="item_id", time="pos", unit="order"
    )
    with tempfile.TemporaryDirectory() as work:
        prepare(Spec(folder.name, log), Path(work) / "prepared")
        dataset = Dataset.load(Path(work) / "prepared", verify=False)
    return dataset, split_log(dataset.log, "leave-one-out")


def speed_run(name: str, epochs: int, seed: int) -> Run:
    """The settings that all peers are timed with."""
    return Run(
        model=ModelSection("sasrec", {"history_length": LENGTHS.get(name, 50)}),
        training=Training(
            epochs=epochs,
            batch_size=128,
            learning_rate=1e-3,
            optimizer="adam",
            evaluate_every=0,
            seed=seed,
            device="cpu",
        ),
    )


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Load, train and evaluate once: the line of results."""
    name = options.data.resolve().name
    with common.Clock() as importing:
        subprocess.run([sys.executable, "-c", IMPORTS], check=True)
    with common.Clock() as loading:
        dataset, split = load(options.data)
    if options.tag == "speed":
        run = speed_run(name, 1 if options.quick else options.epochs, options.seed)
    else:
        run = recipe("sasrec").with_settings([*options.set, f"training.seed={options.seed}", "training.device=cpu"])
    clock = EpochClock(options.budget)
    with common.Clock() as fitting:
        model, records = learn(run, dataset, split, callbacks=[clock])
    with common.Clock() as judging:
        result = evaluate(model, dataset, split.test, Protocol(ks=(10, 20, 50)))
    assert model.history_length is not None
    rows = SequenceRows(dataset, split.train, history_length=model.history_length, item_features=False)
    fastest = min(range(len(clock.cpu)), key=clock.cpu.__getitem__)  # the first one warms up
    epoch_cpu, epoch_wall, positions = clock.cpu[fastest], clock.wall[fastest], int(rows.lengths.sum())
    settings = run.model.settings
    line = {
        "peer": "twotower",
        "version": twotower.__version__,
        "data": name,
        "model": options.model,
        "tag": options.tag,
        "batch": run.training.batch_size,
        "maxlen": model.history_length,
        "hidden": settings.get("dim", 64),
        "layers": settings.get("layers", 2),
        "heads": settings.get("heads", 2),
        "dropout": settings.get("dropout", 0.2),
        "lr": run.training.learning_rate,
        "loss": "full_softmax",
        "negatives": dataset.schema.num_items - 2,
        "threads": torch.get_num_threads(),
        "peak_mb": round(common.peak_mib()),
        "phase": "speed" if options.tag == "speed" else "best",
        "import_s": importing.wall,
        "import_cpu_s": importing.cpu,
        "load_s": loading.wall,
        "load_cpu_s": loading.cpu,
        "epoch_wall_s": epoch_wall,
        "epoch_cpu_s": epoch_cpu,
        "positions": positions,
        "positions_per_s": positions / epoch_wall,
        "positions_per_cpu_s": positions / epoch_cpu,
        "fit_wall_s": fitting.wall,
        "fit_cpu_s": fitting.cpu,
        "eval_wall_s": judging.wall,
        "eval_cpu_s": judging.cpu,
        **{ours: result.metrics[theirs] for ours, theirs in COLUMNS.items()},
    }
    if options.tag != "speed":
        best = max(records, key=lambda record: record.metrics.get(run.training.metric, -1.0))
        line |= {
            "epoch": best.epoch,
            "epochs_run": len(clock.cpu),
            "train_cpu_s": sum(clock.cpu),
            "train_wall_s": sum(clock.wall),
            "validation": best[run.training.metric],
            "settings": settings,
            "training": vars(run.training),
        }
    return {key: round(value, 5) if isinstance(value, float) else value for key, value in line.items()}


def ratios(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """For each data set and peer, ours against theirs: the k-th line of one with the k-th of the other."""
    found: dict[str, Any] = {}
    timed = [line for line in lines if line.get("phase") == "speed" and line.get("model") == "sasrec"]
    kinds = dict.fromkeys((line["data"], line["peer"]) for line in timed if line["peer"] != "twotower")
    for data, peer in kinds:
        ours, theirs = (
            [line for line in timed if (line["data"], line["peer"]) == (data, name)] for name in ("twotower", peer)
        )
        pairs = list(zip(ours, theirs, strict=False))
        if not pairs:
            continue
        throughput = [mine["positions_per_cpu_s"] / other["positions_per_cpu_s"] for mine, other in pairs]
        evaluation = [mine["eval_cpu_s"] / other["eval_cpu_s"] for mine, other in pairs]
        found[f"{data} {peer}"] = {
            "version": theirs[0]["version"],
            "pairs": len(pairs),
            "training_throughput_ratio": statistics.median(throughput),
            "evaluation_time_ratio": statistics.median(evaluation),
            "training_throughput_ratios": throughput,
            "evaluation_time_ratios": evaluation,
        }
    return found


def main() -> None:
    """Measure ours, or compare what was measured."""
    made = common.parser(__doc__)
    made.set_defaults(threads=int(os.environ.get("BENCH_THREADS", "1")))
    made.add_argument("--data", type=Path, help="a folder with inter.csv: measure ours on it")
    made.add_argument("--model", choices=["sasrec"], default="sasrec")
    made.add_argument("--tag", choices=["speed", "quality"], default="speed")
    made.add_argument("--epochs", type=int, default=2, help="epochs of a speed run, the fastest counts (default 2)")
    made.add_argument("--budget", type=float, default=0.0, help="CPU seconds of training, after which it stops")
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--set", action="append", default=[], help="a setting of a quality run, section.key=value")
    made.add_argument("--against", type=Path, help="lines of a peer and ours, from runs in turns: compare them")
    options = common.parse(made)
    if (options.data is None) == (options.against is None):
        made.error("give one of --data and --against")
    if options.against is None:
        line = json.dumps(measure(options))
        print(line, flush=True)
        if options.out is not None:
            with options.out.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        return
    lines = [json.loads(line) for line in options.against.read_text(encoding="utf-8").splitlines() if line.strip()]
    common.finish(
        "peers",
        options,
        settings={"layers": 2, "heads": 2, "width": 64, "batch": 128, "loss": "full softmax", "lengths": LENGTHS},
        figures={**ratios(lines), "lines": lines},
    )


if __name__ == "__main__":
    main()
