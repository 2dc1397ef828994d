"""Seconds of a refresh beside those of training from nothing until it is as good, on a log that is cut by time.

The first part of the log trains a bundle; the rest is taken in by `twotower.refresh`, and, once more from nothing, by a
training on all of it with the same split, patience and settings. Both learn the same events, and stop by the same
validation. "Equal" is the first epoch whose validation metric is at least the best that the refresh came to. Seconds
are those of the processor, for training and validation until that epoch; those of the whole calls hold the joining of
both logs, the verdict and the bundle, or the test, too. With ``--out FILE.json``, ``FILE.partial.json`` has the runs
that are done: a benchmark that is stopped loses the one under way alone.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb

import common
import twotower
from twotower.core.files import write_json
from twotower.data.dataset import Dataset
from twotower.data.generate import generate
from twotower.data.planted_world import WorldSettings
from twotower.experiment.run import Run
from twotower.models.base import Model
from twotower.training.callbacks import EpochRecord, Silent

METRIC = "ndcg@10"
SHARE_NEW = 0.2
PATIENCE = 3


class Records(Silent):
    """Keeps what validation said of each epoch, and how many seconds of the processor had gone by then."""

    def __init__(self) -> None:
        self.metrics: list[float] = []
        self.seconds: list[float] = []

    def started(self, epochs: int, steps_per_epoch: int, step: int) -> None:
        self.begun = time.process_time()

    def epoch_done(self, record: EpochRecord, model: Model) -> None:
        self.metrics.append(record.metrics[METRIC])
        self.seconds.append(round(time.process_time() - self.begun, 2))

    def until(self, wanted: float) -> tuple[int | None, float]:
        """The first epoch that is as good, and the seconds until then; where none is, those of all."""
        epoch = next((place for place, value in enumerate(self.metrics) if value >= wanted), None)
        return (None, self.seconds[-1]) if epoch is None else (epoch + 1, self.seconds[epoch])


def events(quick: bool, folder: Path) -> tuple[str, Any]:
    """Name and table of a log: MovieLens-100K where it lies beside the checkout, else a generated one."""
    films = common.SHARED_DATA / "ml-100k" / "ratings.parquet"
    if films.is_file() and not quick:
        source, name, columns = str(films), "ml-100k", "user_id, item_id, timestamp"
    else:
        users, items, number = (300, 200, 9_000) if quick else (3_000, 1_000, 120_000)
        generate(WorldSettings(users=users, items=items, events=number, seed=0), folder / "world")
        source, name, columns = str(folder / "world" / "interactions" / "*.parquet"), "generated", "*"
    return name, duckdb.sql(f"SELECT {columns} FROM read_parquet('{source}') ORDER BY timestamp, user_id, item_id").df()


def dataset(table: Any, name: str) -> Dataset:
    return Dataset.from_frames(table, user="user_id", item="item_id", time="timestamp", unit="s", name=name)


def once(model: str, seed: int, parts: list[Dataset], folder: Path, epochs: int) -> dict[str, Any]:
    """One bundle, its refresh and its rival from nothing."""
    before, newer, whole = parts
    settings = {"epochs": epochs, "patience": PATIENCE, "patience_loss": 0.0, "seed": seed}
    twotower.train(model, before, to=folder / "old", split="global-time", **settings)
    kept = Records()
    with common.Clock() as refreshing:
        done = twotower.refresh(folder / "old", newer, to=folder / "new", device="cpu", callbacks=[kept], **settings)
    if done.written is None:
        raise SystemExit(f"the refresh of {model} was worse: {done.verdict.reasons}")
    run, rival = Run.load(folder / "new" / "run.toml"), Records()
    with common.Clock() as training:
        trained = twotower.train(replace(run, data=replace(run.data, path="")), whole, callbacks=[rival])
    epoch, seconds = kept.until(max(kept.metrics))
    rival_epoch, rival_seconds = rival.until(max(kept.metrics))
    return {
        "refresh": {"epochs": epoch, "cpu_seconds": seconds, "cpu_seconds_of_call": round(refreshing.cpu, 2)},
        "scratch": {
            "epochs_to_equal": rival_epoch,
            "cpu_seconds_to_equal": rival_seconds,
            "epochs": len(rival.metrics),
            "cpu_seconds_of_call": round(training.cpu, 2),
        },
        "validation": {"refresh": max(kept.metrics), "scratch": max(rival.metrics)},
        "test": {"old": done.verdict.old, "refresh": done.verdict.new, "scratch": trained.test.metrics[METRIC]},
    }


def main() -> None:
    made = common.parser(__doc__)
    made.add_argument("--models", default="two_tower,sasrec", help="names, with commas")
    made.add_argument("--seeds", type=int, default=0, help="repeats; default 3, in the quick form 1")
    made.add_argument("--first-seed", type=int, default=0, help="seed of the first repeat")
    options = common.parse(made)
    seeds, epochs = options.seeds or (1 if options.quick else 3), 6 if options.quick else 25
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        log, table = events(options.quick, Path(name))
        cut = int(len(table) * (1 - SHARE_NEW))
        parts = [dataset(part, log) for part in (table[:cut], table[cut:], table)]
        for model in options.models.split(","):
            runs: list[dict[str, Any]] = []
            for seed in range(options.first_seed, options.first_seed + seeds):
                runs.append({"seed": seed, **once(model, seed, parts, Path(name) / f"{model}-{seed}", epochs)})
                ratios = [run["scratch"]["cpu_seconds_to_equal"] / run["refresh"]["cpu_seconds"] for run in runs]
                figures[model] = {"times_faster_to_equal": round(statistics.median(ratios), 2), "runs": runs}
                if options.out is not None:
                    write_json(options.out.with_suffix(".partial.json"), figures)
    if options.out is not None:
        options.out.with_suffix(".partial.json").unlink(missing_ok=True)
    common.finish(
        "refresh",
        options,
        settings={
            "log": log,
            "events": len(table),
            "share_new": SHARE_NEW,
            "metric": METRIC,
            "patience": PATIENCE,
            "most_epochs": epochs,
            "seeds": seeds,
            "never_equal": "epochs_to_equal is null then, and all of the seconds count",
        },
        figures=figures,
    )


if __name__ == "__main__":
    main()
